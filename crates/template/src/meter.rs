//! The account of one rendering: what it may still allocate, and what its filters ask about it.
//!
//! The engine counts instructions, but one instruction may copy megabytes. So everything that copies (operators,
//! filters, captured output) pays for the bytes from one account; see [`crate::guard`] for how the operators come to
//! pay. The account belongs to the thread for the time of one rendering, which never changes threads.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use icu_locale_core::Locale;
use minijinja::value::{ObjectRepr, Value, ValueKind};
use minijinja::{Error, ErrorKind};
use nix::time::{ClockId, clock_gettime};

/// Bytes that one rendering may copy, all operations together.
const BYTES: u64 = 64 << 20;
/// What one item of a list or a map costs to keep or to look at.
const ITEM: usize = 16;
/// How much processor time one rendering may take; not time on the clock, which passes while others have the
/// processor. The other bounds end what takes long well before; this one ends what they overlook.
const LONGEST: Duration = Duration::from_millis(500);
/// How deep lists and maps may stand in each other: printing, comparing and dropping them recurses.
const DEPTH: usize = 64;
/// Strings up to this length cost nothing when they are only kept, not copied.
const SHORT: usize = 1024;

thread_local! {
    static LEFT: Cell<u64> = const { Cell::new(0) };
    /// What this thread will have used of the processor when the rendering has used up its time.
    static LAST: Cell<Duration> = const { Cell::new(Duration::MAX) };
    /// Before this moment it cannot be used up; the clock is cheaper to read than the time of a thread.
    static UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
    static LOCALE: RefCell<Locale> = const { RefCell::new(Locale::UNKNOWN) };
}

/// Opens the account of a rendering in this thread; filters format for `locale`.
pub(crate) fn open(locale: Locale) {
    LEFT.set(BYTES);
    LAST.set(used().saturating_add(LONGEST));
    UNTIL.set(Instant::now().checked_add(LONGEST));
    LOCALE.set(locale);
}

/// Runs `work` with the locale of the rendering under way.
pub(crate) fn with_locale<T>(work: impl FnOnce(&Locale) -> T) -> T {
    LOCALE.with_borrow(|locale| work(locale))
}

/// Pays for `bytes`, or ends the rendering.
pub(crate) fn pay(bytes: usize) -> Result<(), Error> {
    let left = LEFT.get().checked_sub(bytes as u64);
    LEFT.set(left.unwrap_or(0));
    if is_late() {
        return Err(too_much(TIME));
    }
    left.map(|_| ()).ok_or_else(|| too_much(MEMORY))
}

/// Whether the rendering has used up its time.
fn is_late() -> bool {
    let now = Instant::now();
    if UNTIL.get().is_none_or(|until| now <= until) {
        return false;
    }
    let left = LAST.get().saturating_sub(used());
    UNTIL.set(now.checked_add(left));
    left.is_zero()
}

/// The processor time that this thread has used since it began (POSIX, `CLOCK_THREAD_CPUTIME_ID`).
pub(crate) fn used() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::MAX, Duration::from)
}

/// The detail of the error of a rendering that copied too much.
pub(crate) const MEMORY: &str = "memory";
/// The detail of the error of a rendering that took too long.
pub(crate) const TIME: &str = "time";
/// The detail of the error of a value that is nested too deep.
pub(crate) const NESTING: &str = "nesting";

/// The error that ends a rendering; [`crate::RenderError::TooMuch`] is made of it.
pub(crate) fn too_much(what: &'static str) -> Error {
    Error::new(ErrorKind::OutOfFuel, what)
}

/// Pays for a value that is written out: every string in it in full.
pub(crate) fn pay_text(value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => pay(text.len() + 16),
        None => walk(value, DEPTH, &|text| text.len() * 2 + 8),
    }
}

/// Pays for a value whose items are copied, but not what the items hold.
pub(crate) fn pay_items(value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => pay(text.len() + 16),
        None if value.as_object().is_some() => pay(value.len().unwrap_or(0).saturating_mul(ITEM)),
        None => Ok(()),
    }
}

/// Pays for a value that is compared: everything in it.
pub(crate) fn pay_compared(value: &Value) -> Result<(), Error> {
    walk(value, DEPTH, &|text| text.len() + ITEM)
}

/// A value as it may be kept in a variable, or in a namespace where `inside`: no deeper than allowed, no namespace in
/// anything (it could come to hold itself), and a list where the engine would have kept a chain of unevaluated
/// iterators.
pub(crate) fn settle(value: &Value, inside: bool) -> Result<Value, Error> {
    let Some(object) = value.as_object() else {
        return Ok(value.clone());
    };
    if object.repr() == ObjectRepr::Iterable {
        let mut items = Vec::new();
        for item in value.try_iter()? {
            pay(24)?;
            items.push(item);
        }
        let list = Value::from(items);
        walk(&list, DEPTH, &kept)?;
        return Ok(list);
    }
    if inside && is_namespace(value) {
        return Err(too_much(NESTING));
    }
    walk(value, DEPTH, &kept)?;
    Ok(value.clone())
}

fn kept(text: &str) -> usize {
    if text.len() > SHORT { text.len() } else { ITEM }
}

fn is_namespace(value: &Value) -> bool {
    value
        .as_object()
        .is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

/// Pays for each node under `value`, `cost` of the string where it is one.
fn walk(value: &Value, depth: usize, cost: &dyn Fn(&str) -> usize) -> Result<(), Error> {
    if let Some(text) = value.as_str() {
        return pay(cost(text));
    }
    pay(ITEM)?;
    if !matches!(
        value.kind(),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
    ) {
        return Ok(());
    }
    let deeper = depth.checked_sub(1).ok_or_else(|| too_much(NESTING))?;
    let is_map = value.kind() == ValueKind::Map;
    for item in value.try_iter()? {
        if is_map {
            let held = value.get_item(&item)?;
            if is_namespace(&held) {
                return Err(too_much(NESTING));
            }
            walk(&held, deeper, cost)?;
        }
        if is_namespace(&item) {
            return Err(too_much(NESTING));
        }
        walk(&item, deeper, cost)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_only_while_it_is_used() {
        open(Locale::UNKNOWN);
        // Somebody else has the processor for longer than a rendering may take.
        std::thread::sleep(LONGEST * 2);
        assert!(pay(0).is_ok());
        let begin = used();
        let error = loop {
            if let Err(error) = pay(0) {
                break error;
            }
        };
        assert_eq!(error.detail(), Some(TIME));
        assert!(used().saturating_sub(begin) > LONGEST / 2);
    }
}
