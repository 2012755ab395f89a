# Login nodes: short things only, on a disk that many share.
bind path = /etc/localtime
bind path = /etc/hosts
bind path = /etc/nsswitch.conf
cache directory = /var/tmp/singrun-%U
cache size = 5G
