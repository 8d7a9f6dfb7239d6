//! Which database this is. Relays carry the stamp of the one that they were armed in.
//!
//! A dump and a copied database show by it that they are others. A copy of the data directory has the same identity:
//! there `pgmq_mail.token_file` makes the difference, whose content is no part of the data.

use std::{fmt::Write as _, io::Error, path::Path};

use mail_smtp::read_file;
use ring::digest::{SHA256, digest};

use crate::{guc, pg};

/// The octets of a token.
const MOST_TOKEN: u64 = 64 * 1024;

/// Identity of this database and, where `pgmq_mail.token_file` is set, a digest of its content; or why that cannot be
/// read.
pub fn stamp() -> Result<String, String> {
    let identity = pg::identity();
    let Some(file) = guc::TOKEN_FILE.get().filter(|file| !file.is_empty()) else {
        return Ok(identity);
    };
    let token = token(Path::new(&*file.to_string_lossy())).map_err(|error| error.to_string())?;
    let mut stamp = format!("{identity}:");
    for octet in digest(&SHA256, &token).as_ref() {
        write!(stamp, "{octet:02x}").map_err(|error| error.to_string())?;
    }
    Ok(stamp)
}

/// The content of the file, less white space around it.
fn token(file: &Path) -> std::io::Result<Vec<u8>> {
    let file = file.canonicalize()?;
    if file.starts_with(Path::new(&pg::data_directory()).canonicalize()?) {
        let error = "it is in the data directory, so that a copy would have it too";
        return Err(Error::other(error));
    }
    let content = read_file(&file, MOST_TOKEN)?;
    let token = content.trim_ascii();
    if token.is_empty() {
        return Err(Error::other("it is empty"));
    }
    Ok(token.to_vec())
}

#[allow(unsafe_code, reason = "expansions of pg_extern")]
mod functions {
    use pgrx::pg_extern;

    #[pg_extern(sql = false)]
    fn stamp() -> Option<String> {
        super::stamp().ok()
    }

    #[pg_extern(sql = false)]
    fn token_trouble() -> Option<String> {
        super::stamp().err()
    }
}
