#!/bin/sh
# opensmtpd.sh FOLDER PACKAGE: runs the smtpd of the unpacked PACKAGE in the foreground, as root.
# Its folders and users are compiled in: it gets a root directory of its own, made of the machine's
# programs and the FOLDER's etc and mail, in a mount namespace that ends with it. Nothing is added
# to the machine.
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
mkdir -p "$root/usr/sbin" "$root/usr/libexec" "$root/mail" "$root/tmp"
cp "$package/usr/sbin/smtpd" "$package/usr/sbin/smtpctl" "$root/usr/sbin/"
cp -r "$package/usr/libexec/opensmtpd" "$root/usr/libexec/"
chmod 1777 "$root/tmp"
cp -r "$folder/etc" "$root/etc"
chmod 600 "$root/etc/server.key" "$root/etc/credentials"
chown -R 0:0 "$root/etc"
chown 201:201 "$root/etc/credentials"
mount --bind "$folder/mail" "$root/mail"
mkdir -p "$root/var/spool/smtpd" "$root/var/lib/opensmtpd/empty" "$root/run"
ln -s ../run "$root/var/run"
chmod 711 "$root/var/spool/smtpd"
exec chroot "$root" /usr/bin/env LD_PRELOAD=/etc/shim.so /usr/sbin/smtpd -d -f /etc/smtpd.conf
