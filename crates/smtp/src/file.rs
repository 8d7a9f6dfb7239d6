//! Files that a setting names: whatever stands there, reading it neither waits nor fills the memory.

use std::{
    fs::{self, File},
    io::{Error, Read as _, Result},
    path::Path,
};

/// All of a regular file of at most `most` octets.
///
/// # Errors
/// It is no regular file (a pipe would keep the reader waiting, a device may never end), it is larger, or the system says
/// why it cannot be read. No error holds any of its content.
pub fn read_file(path: &Path, most: u64) -> Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(Error::other("it is not a regular file"));
    }
    let mut content = Vec::new();
    // A file in /proc says that it is empty: what counts is what comes.
    let read = File::open(path)?.take(most + 1).read_to_end(&mut content)?;
    if read as u64 > most {
        return Err(Error::other(format!("it holds more than {most} bytes")));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit_and_nothing_else_is_read_at_all() {
        let file = std::env::temp_dir().join(format!("read-file-{}", std::process::id()));
        fs::write(&file, b"0123456789").expect("a file can be written");
        let (all, cut) = (read_file(&file, 10), read_file(&file, 9));
        fs::remove_file(&file).expect("it is ours");
        assert_eq!(all.expect("it is not too large"), b"0123456789");
        let error = cut.expect_err("it is too large").to_string();
        assert_eq!(error, "it holds more than 9 bytes");
        for other in ["/dev/zero", "/tmp"] {
            let error = read_file(Path::new(other), 9).expect_err("it is no file");
            assert_eq!(error.to_string(), "it is not a regular file", "{other}");
        }
        assert!(read_file(&file, 9).is_err(), "it is gone");
    }
}
