//! A private Exim. The package conflicts with Postfix's: it is unpacked, not installed.

use crate::certificates::Certificates;
use crate::mail_server::{MailServer, Make, Setup, package};
use crate::mailbox::{LOGIN, USERS};
use crate::process::can_be_root;

/// There is no router but that for the mailboxes: nothing leaves the machine. Deliveries run as the user
/// of the daemon, whose mailboxes they are. `{users}`, `{user}` and `{password}` are filled in here, the
/// others by [`Setup`].
const CONFIG: &str = r"
primary_hostname = exim.test
local_interfaces = <; 127.0.0.1
daemon_smtp_ports = {port} : {submission} : {smtps}
tls_on_connect_ports = {smtps}
tls_advertise_hosts = *
tls_certificate = /etc/server.pem
tls_privatekey = /etc/server.key
spool_directory = /var/spool/exim4
log_file_path = /var/log/exim4/%slog
log_selector = +received_sender +tls_cipher
pid_file_path = /run/exim.pid
deliver_drop_privilege = true
host_lookup =
rfc1413_hosts =
keep_environment =
smtp_accept_max = 0
smtp_accept_max_per_connection = 0
smtp_accept_queue_per_connection = 0
acl_smtp_mail = mail
acl_smtp_rcpt = rcpt

begin acl
mail:
  accept condition = ${if eq{$received_port}{{port}}}
  accept encrypted = *
         authenticated = *
  deny   message = Authentication required

rcpt:
  accept domains = {domain}
         verify = recipient
  deny   message = No such user here

begin routers
mailboxes:
  driver = accept
  domains = {domain}
  local_parts = {users}
  transport = maildir

begin transports
maildir:
  driver = appendfile
  maildir_format
  directory = /mail/$local_part_data
  return_path_add

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${if and{{eq{$auth2}{{user}}}{eq{$auth3}{{password}}}}}
  server_set_id = $auth2
  server_advertise_condition = ${if def:tls_in_cipher}

login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = <| Username: | Password:
  server_condition = ${if and{{eq{$auth1}{{user}}}{eq{$auth2}{{password}}}}}
  server_set_id = $auth1
  server_advertise_condition = ${if def:tls_in_cipher}
";

/// The name of the user is compiled in.
const PASSWD: &str = "\
root:x:0:0:root:/:/bin/sh
Debian-exim:x:{uid}:{gid}::/var/spool/exim4:/bin/false
";

const GROUP: &str = "\
root:x:0:
Debian-exim:x:{gid}:
";

/// Whether there is what it needs: the unpacked package, and root's rights.
pub(crate) fn is_available() -> bool {
    package(Make::Exim).join("usr/sbin/exim4").exists() && can_be_root()
}

/// Starts one.
pub(crate) fn start(certificates: &Certificates) -> MailServer {
    let setup = Setup::new(Make::Exim, certificates);
    let config = CONFIG
        .replace("{users}", &USERS.join(" : "))
        .replace("{user}", LOGIN.0)
        .replace("{password}", LOGIN.1);
    setup.write("etc/exim4/exim4.conf", &config);
    setup.write("etc/passwd", PASSWD);
    setup.write("etc/group", GROUP);
    setup.start_unpacked(include_str!("../servers/exim.sh"))
}
