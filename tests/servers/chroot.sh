#!/bin/sh
# chroot.sh FOLDER PACKAGE: runs the mail server of the unpacked PACKAGE in the foreground, as root.
# Its folders and users are compiled in: it gets a root directory of its own, made of the machine's
# programs and the FOLDER's etc and mail, in a mount namespace that ends with it. Nothing is added
# to the machine. What is special about the server stands in FOLDER/inside.sh.
set -eu
folder=$1 package=$2

if [ "${3:-}" != inside ]; then
    exec unshare --mount --propagation private sh "$0" "$folder" "$package" inside
fi

root=$folder/root
mkdir -p "$root"
mount -t tmpfs -o mode=755 tmpfs "$root"
bind() {
    mkdir -p "$root$1"
    mount --rbind "$1" "$root$1"
}
bind /dev
bind /proc
bind /usr/lib
bind /usr/bin
bind /usr/share
for link in /bin /lib /lib32 /lib64 /libx32; do
    if [ -L "$link" ]; then cp -P "$link" "$root$link"; elif [ -d "$link" ]; then bind "$link"; fi
done
if [ -d /usr/lib64 ]; then bind /usr/lib64; fi
mkdir -p "$root/usr/sbin" "$root/mail" "$root/tmp" "$root/run" "$root/var/spool"
ln -s ../run "$root/var/run"
chmod 1777 "$root/tmp"
cp -r "$folder/etc" "$root/etc"
chown -R 0:0 "$root/etc"
chmod 600 "$root/etc/server.key"
mount --bind "$folder/mail" "$root/mail"
. "$folder/inside.sh"
