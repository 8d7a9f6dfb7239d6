# The rest of chroot.sh for Exim. Its binary is not setuid here: it delivers as its own user.
mkdir -p "$root/var/spool/exim4" "$root/var/log/exim4"
mount --bind "$folder/log" "$root/var/log/exim4"
cp "$package/usr/sbin/exim4" "$root/usr/sbin/"
chroot "$root" /usr/bin/chown Debian-exim: /var/spool/exim4 /etc/server.key
exec chroot "$root" /usr/sbin/exim4 -bdf
