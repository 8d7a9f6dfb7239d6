# The rest of chroot.sh for OpenSMTPD.
mkdir -p "$root/usr/libexec" "$root/var/spool/smtpd" "$root/var/lib/opensmtpd/empty"
cp "$package/usr/sbin/smtpd" "$package/usr/sbin/smtpctl" "$root/usr/sbin/"
cp -r "$package/usr/libexec/opensmtpd" "$root/usr/libexec/"
chmod 600 "$root/etc/credentials"
chown 201:201 "$root/etc/credentials"
chmod 711 "$root/var/spool/smtpd"
exec chroot "$root" /usr/bin/env LD_PRELOAD=/etc/shim.so /usr/sbin/smtpd -d -f /etc/smtpd.conf
