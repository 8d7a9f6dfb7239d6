//! What a claimed message is made from, on the network thread: nothing in here touches Postgres.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::SystemTime,
};

use bytes::Bytes;
use mail_composer::Composer;
use mail_relay::{Made, Source};
use serde_json::json;

/// The templates and keys in force, which the main thread exchanges when they change.
pub type Shared = Arc<RwLock<Arc<Composer>>>;

/// The rows of one message.
pub struct Stored {
    state: Mutex<State>,
    /// Of its `Date` header, in seconds since the Unix epoch.
    date: i64,
    composer: Shared,
}

enum State {
    Rows {
        content: String,
        files: Vec<Vec<Bytes>>,
    },
    Made(Result<Made, String>),
}

impl Stored {
    /// `files` is `None` where they are not all there.
    pub fn new(
        content: String,
        files: Option<Vec<Vec<Bytes>>>,
        date: i64,
        composer: Shared,
    ) -> Self {
        let state = match files {
            Some(files) => State::Rows { content, files },
            None => State::Made(Err("a file that goes with it is gone".to_owned())),
        };
        Self {
            state: Mutex::new(state),
            date,
            composer,
        }
    }

    fn compose(&self, content: &str, files: Vec<Vec<Bytes>>) -> Result<Made, String> {
        let composer = Arc::clone(&self.composer.read().unwrap_or_else(PoisonError::into_inner));
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(self.date, |since| since.as_secs().cast_signed());
        let message = composer.compose(content, files, self.date, now)?;
        let note = message.rendered.map(|from| {
            let template =
                json!({"name": from.name, "locale": from.locale, "version": from.version});
            json!({ "template": template }).to_string().into()
        });
        Ok(Made {
            text: message.text,
            dsn: message.dsn,
            note,
        })
    }
}

impl Source for Stored {
    fn make(&self) -> Result<Made, String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Rows { content, files } = &mut *state {
            let (content, files) = (std::mem::take(content), std::mem::take(files));
            *state = State::Made(self.compose(&content, files));
        }
        match &*state {
            State::Made(made) => made.clone(),
            State::Rows { .. } => Err("internal error".to_owned()),
        }
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stored")
    }
}
