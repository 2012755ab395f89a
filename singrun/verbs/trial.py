"""Images small enough to be carried along, mounted by one program to see whether it works here.

Each holds one file. Made by:
    mke2fs -t ext3 -b 1024 -I 128 -N 16 -m 0 -J size=1 -O none,has_journal,filetype -d DIR FILE 2100
    mksquashfs DIR FILE -all-root -mkfs-time 0 -comp gzip
"""

import base64
import os
import zlib

from singrun.assembly import make_tmpfs
from singrun.config import Site
from singrun.errors import RunError
from singrun.identity import Caller
from singrun.images import fuse, strategies
from singrun.images.fuse import FUSE_OVERLAYFS
from singrun.images.image import identify
from singrun.namespaces.leaving import leave_host
from singrun.request import FUSE2FS, SQUASHFUSE

_PROOF = "proof"


FUSE_PROGRAMS = (FUSE2FS, SQUASHFUSE, FUSE_OVERLAYFS)


def attempt(program: str, site: Site) -> None:
    """Let ``program``, or "loop", do its work, in namespaces that this process enters.

    RunError: it cannot. Nothing is left when the process ends.
    """
    proc = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    privileged = leave_host(Caller(), proc, slave=False)
    tmpfs = make_tmpfs()
    site.cache = f"{tmpfs}/cache"
    if program == FUSE_OVERLAYFS:
        _lay_over(tmpfs)
        return
    packed = _SQUASHFS if program in (SQUASHFUSE, "unsquashfs") else _EXT3
    way = strategies.start(
        identify(_file(packed)),
        f"{tmpfs}/image",
        privileged=privileged,
        forced="unpack" if program in ("debugfs", "unsquashfs") else program,
        site=site,
        debug=False,
    )
    _check(program, "mounts what cannot be read", way.finish(), os.O_RDONLY, _PROOF)


def _lay_over(tmpfs: str) -> None:
    """Lay a directory over another, and write to it."""
    lower, upper, work, root = (f"{tmpfs}/{name}" for name in ("lower", "upper", "work", "root"))
    for path in (lower, upper, work, root, f"{lower}/{_PROOF}"):
        os.mkdir(path)
    tree = fuse.start_overlay([lower], [upper, work], root).finish()
    target = f"{_PROOF}/new"
    _check(FUSE_OVERLAYFS, "lays over what cannot be written", tree, os.O_CREAT, target)


def _check(program: str, how: str, tree: int, flags: int, name: str) -> None:
    """Open a file in a mounted ``tree``."""
    try:
        os.close(os.open(name, flags, 0o600, dir_fd=tree))
    except OSError as error:
        raise RunError(f"{program} {how}", why=f"{error.strerror}.") from None


def _file(packed: str) -> str:
    """Return the path of a file in memory, which other processes of ours can open too."""
    fd = os.memfd_create("singrun-trial")
    os.fchmod(fd, 0o600)  # it has 0777, and root is warned of images that others can change
    # Packed twice: once makes a kilobyte of each megabyte of zeros.
    os.write(fd, zlib.decompress(zlib.decompress(base64.b85decode(packed))))
    return f"/proc/{os.getpid()}/fd/{fd}"


_EXT3 = (
    "c-rmOTT~MV9>;NeRB~LwoYs1af~QNX>*-"
    "p&bYM3wSZggRCvr(hLLdniQJDy6VYmd6h`8dGB3deH*a!%c>rA9L0>KbmYN%B}B{L&oA?zZu&KOW}K!YLMed*)A_CY_7|L"
    "5QNo`0UxJvjdgoNDd(m*N;ZJ9oi1*(bBteQ@l(`?dFX2C<gZ&--v5?{wUm@$n6(<90v(F2=HL$F9-"
    "YMU07XLF?w}p1=@!{>6UVh0I=O6CrU)e3=t;k13zwca&*Z0M2fV42lM_lWWS0w$&+b_y<=F4@O50O-"
    "&6Lt)Ko!GZJf?GIymAlDWY)VtBfJV4F`+o_WXTY1mfmS!Z7{%23y@fp3A&)t4Gp9g%>fx}gDn40>{-yT2`-"
    "ojTMW&3vH<wZ}BQFdzJ>EsO2kGP(6?K3#g8`AxG+<(sGay|iFu#A$o(?}m#(2ca(>Dj|#^g<m~fc-"
    "m(3ec(%TC;R&h&wO_!1?5R$o|!RUP0`-"
    "EKT5n4L_=PPpuA=F&ZLB>zA^Flkyzs0F2mjlB=eLoY*n+}_{=4KRdr>J;cq_1wCed#ux+}q)7}pbv7phz4$Ad?W$H`D^4C"
    "3C`FDp~XT5n(hg%=9UahL$m;7KDE}3ZQdr}qP${*l-"
    "88J4&+T^Tp=PZvX+^k(RJ6h%qoAmvB`phJ=@Uxe$_wH;>o_%MMd0y4=dhVmu8+=D!G5&WdQY{dKSf1YV9htw}Lv;Ga6N_B"
    "s&Hi)e{HlY|^DSMg*6&A{L?l@0IoK^~!kz$;-"
    "3h_h80QOyHR)M?kKk8i3ZPP4U#gogs};2@)$fosimq4cK9cEKjozNMvd5x^N_dpyqJ;_zU$=zXO!tfQd?X&kJV`L$NU+fT"
    "aJ-CQqZzP(BF3nN^i5|?sHqGban^^z?-"
    "o=Yl1L5f!P~6HjlDR^Nl)yQwK>~!bb&Ihvo%LArf$<`J)oQ4Mi5}RGb{OF(Bt51DyOzxGJ`8om7;EuZZ1{BZfQ>_anwRWg"
    "|S`i(sxoPJsE)sk=V(woK@T|e43o0i`j@$*hMUWzS8j466+vP!`Bikp#7To1H_-"
    "942@unm=En0^Og}GL1|+CIbsQvDvsZ3SWQHeS_tx*5WS4DSlTmm)kFwsx9BsFL=yL;dJP%I0qT^cY2468U9>ch8)v8@4-"
    "_tBVx9C(Z-"
    "X+i98aP1!egUxE}b3D?Zva`LTgM29z}ocMU+yNPC%B^S~)5)5>%PIX~?jZkdm6RX}_`u$Cb&+hXeGrfT&E8;y4fR1B{K4P"
    "vWH`cpjkS#4N_Y0FH3tD)4<kJ|~uo^8kp$?ZdMHMfb2~%bYh^N5RXxHAO`i{FwfC{_<n%QKtHW+INBKq|c}?M~Is6LqI`y"
    "Y!;pb<aTo>@j|*$ZHtgBbR0ut)+d!ZE}_Epk|@V_C{J-"
    "IA|Z;{gdSQis5XpJedy<~uv*`X??%6d<Ba$ih>EPZ4v@j3He3(MtRh>4RH_TX{m{MXyp_ZnG%cN9MVtdmoj+VNz_KdmwG%"
    "`Rs&L0_!S|q9?zlGm9Q84cIpG|$84E%WxZ?|m2%2^_PZ_<`O6apdAp^TXceCpk!JT9x?e^>mltemmsh`+}Q%DN=z#~!Elr"
    "dcxlX}Un-"
    "D9dCAF?m+f&0i8?7ALP6ZwR#?SUuB*Or=3Or_+%E%l$kx5?+0ONhxxM$#jmUEZq*QjGynx>!IE0raG2$Dl9_>xQBRMK+TZ"
    "ONR;uV{>salsm|s#ubn%JjRAFs9JeTkly9Ur0&U0LFTpOExF+$a)9iYBNxrf$eVJ#1aV;#6qDZVZJgzqaTzVQ#%AJ)^q42"
    "gDxT}L2J(t!I|JZ*;0sor-"
    "P8yQ%fus&7C=%aUF<jx#B!1<9Q8l~N5XY{55#lCeU7Vum?Pcn_$6335Y?N#Y*$tO(~gc3Dj0}TT-"
    "^`%gH!6dN2XSAT&?|ox%Paa_@NR>1^Y!vMEq?+EBmXcF@jqSp9M!nm-"
    "%on2BLB}R)&kv9GFYta#X2kZ;z3h0>DnEE)?N_eNI!TIRsmZrl!Xy5}{~%fY}YsIBRoE8gR^cIR_3Q1f&s7bW5bhaIn{Do"
    "I(^Ng=V@1Gej79lznB9p_r<Ib_R+{ux4_A*08Ui(oNuJAYP!j%h5<%JxXuQDdTGV8T7eExE8ww?be92*kkBRO~L`JAKIfy"
    "9K&8g+r+|U*iC4cSac2>g?5M&1XwxQMOS#z#Nw?+8R@hjh<PPBMweO|GYnN!r3F<c*bD>Yl%;Om)JBe5wBzs$IV-PGikbL"
    "!`fzxhP4B|%XkoY{+EGFC!o|IgCORox8saFW<E%+Gql;Kgp7o@7^%9sMX?fj{shRAh&&k{TPWb!#8*TvgC-"
    "8%Syeu{a7Xl_bas>P*%WO9<0RN%ZtwDBy_tmB~=5^rDYC{8(20GP9gLwsL_r!F6`XkMJqsRQRV0F-"
    "@4Nu=j`L~bqc7~rHHq46KF1yOI+I1UcCKf-1_!E#(CKw^+0ed;T#l(j|8i!v&yuV%C`^HW6s7g8D|I0_N2_4*be)BtX-"
    "g@h;w|?cz^ZCX7p>qCz0gHu03j"
)
_SQUASHFS = (
    "c-"
    "pJDby`DDCoQRgQH{+_;p7R069o(&n;33#1<Z60_$4;wA3v*PK%M%OdrV8uJG{K}=hB`@S48wG+q$ApdJ4At8Eg>S&?#afv"
    "$uRj>9ZCd&sLLdDs1K4#|}SIVCCfH$&*U&m$48LFi8DZW5%|v-"
    "KUC)mos3qg~Wk#$q_71KRa&SkoCdHfXhJRU1Qf~lZF%8Jc|=VdYS?axZDnENU$Pt8W<S-%JlXE0Kc(B@c"
)
