//! A private Postfix.

use std::path::Path;
use std::time::Duration;

use crate::certificates::Certificates;
use crate::guard::{Folder, Guard};
use crate::mail_server::{MailServer, Make, Setup};
use crate::mailbox::{DOMAIN, LOGIN, USERS};
use crate::process::{as_root, can_be_root, how_to_be_root, run};

/// The services that a delivery needs, none of them in a chroot. `{…}` are filled in.
const MASTER: &str = "\
127.0.0.1:{port} inet n - n - - smtpd
127.0.0.1:{submission} inet n - n - - smtpd
  -o smtpd_tls_security_level=encrypt
  -o smtpd_client_restrictions=permit_sasl_authenticated,reject
127.0.0.1:{smtps} inet n - n - - smtpd
  -o smtpd_tls_wrappermode=yes
  -o smtpd_client_restrictions=permit_sasl_authenticated,reject
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
";

/// Nothing leaves the machine: there is no `smtp` service, and every transport but the local
/// mailboxes is an error.
const MAIN: &str = "\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
mail_owner = postfix
setgid_group = postdrop
myhostname = postfix.test
mydestination =
mynetworks =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
default_transport = error:nothing leaves this machine
relay_transport = error:nothing leaves this machine
local_transport = error:no local delivery
disable_dns_lookups = yes
smtpd_peername_lookup = no
notify_classes =
alias_maps =
alias_database =
local_recipient_maps =
maillog_file = {folder}/log/mail
maillog_file_prefixes = {folder}
in_flow_delay = 0
smtpd_client_connection_count_limit = 0
smtpd_banner = $myhostname ESMTP $mail_name
virtual_mailbox_domains = {domain}
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = texthash:{folder}/etc/mailboxes
virtual_minimum_uid = 1
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
smtpd_relay_restrictions = permit_sasl_authenticated, reject_unauth_destination
smtpd_tls_security_level = may
smtpd_tls_auth_only = yes
smtpd_tls_cert_file = {folder}/etc/server.pem
smtpd_tls_key_file = {folder}/etc/server.key
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = cyrus
smtpd_sasl_path = smtpd
smtpd_sasl_local_domain = postfix.test
cyrus_sasl_config_path = {folder}/etc/sasl
";

/// `$1` is the folder, `$2` and `$3` the login.
const PREPARE: &str = r#"
chown -R root:root "$1/etc" "$1/queue"
chown postfix "$1/data"
chmod 600 "$1/etc/server.key"
printf %s "$3" | saslpasswd2 -p -c -f "$1/sasl/users.db" -u postfix.test "$2"
chown root:postfix "$1/sasl/users.db"
chmod 640 "$1/sasl/users.db"
"#;

/// `$1` is the folder, `$2` how to become root.
const STOP: &str = r#"$2 /usr/sbin/postfix -c "$1/etc" stop"#;

/// Whether there is what it needs: the programs, and root's rights.
pub(crate) fn is_available() -> bool {
    Path::new("/usr/sbin/postfix").exists()
        && Path::new("/usr/sbin/saslpasswd2").exists()
        && can_be_root()
}

/// Starts one.
pub(crate) fn start(certificates: &Certificates) -> MailServer {
    let setup = Setup::new(Make::Postfix, certificates);
    for name in ["sasl", "queue", "data"] {
        std::fs::create_dir(setup.folder.path().join(name)).expect("writable");
    }
    setup.write("etc/main.cf", MAIN);
    setup.write("etc/master.cf", MASTER);
    let mailboxes = USERS.map(|user| format!("{user}@{DOMAIN} {user}/\n"));
    setup.write("etc/mailboxes", &mailboxes.concat());
    setup.write(
        // Where Debian's Postfix looks for it, whatever cyrus_sasl_config_path says.
        "etc/sasl/smtpd.conf",
        "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN LOGIN\n\
         sasldb_path: {folder}/sasl/users.db\n",
    );
    let folder = setup.folder.text();
    let stop = format!("{STOP}; {}", Folder::removal());
    let guard = Guard::new(&stop, &[folder, how_to_be_root()]);
    run(
        as_root("sh").args(["-euc", PREPARE, "prepare", folder, LOGIN.0, LOGIN.1]),
        Duration::from_mins(1),
    );
    let config = setup.folder.path().join("etc");
    run(
        as_root("/usr/sbin/postfix")
            .arg("-c")
            .arg(config)
            .arg("start"),
        Duration::from_mins(1),
    );
    setup.started(guard)
}
