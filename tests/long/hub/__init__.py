"""A hub seen by the programs of others: browsers, clients, web servers, clusters."""
