//! Parameters: from a JSON object to the engine's values, every number with its value.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use minijinja::value::{Enumerator, Object, Value};
use serde_json::value::RawValue;

/// How deep parameters may be nested; `serde_json` alone would allow 128 levels, each read once more per level here.
const DEPTH: usize = 32;
/// The longest parameters, in bytes.
const LENGTH: usize = 4 << 20;
/// How many values they may hold, lists and objects counted too: each takes far more room than its text.
const VALUES: usize = 100_000;
/// How many decimal digits a binary float keeps.
const FLOAT_DIGITS: usize = 15;

/// Reads a JSON object. The error is one line about what is wrong with it.
pub(crate) fn read(json: &str, probes: Option<&Probes>) -> Result<Value, String> {
    if json.len() > LENGTH {
        return Err("the parameters are longer than 4 MB".to_owned());
    }
    if !json.trim_start().starts_with('{') {
        return Err("the parameters are not a JSON object".to_owned());
    }
    let raw: &RawValue = serde_json::from_str(json)
        .map_err(|error| format!("the parameters are not JSON: {error}"))?;
    value(raw, "", DEPTH, &Cell::new(VALUES), probes)
}

fn value(
    raw: &RawValue,
    path: &str,
    depth: usize,
    left: &Cell<usize>,
    probes: Option<&Probes>,
) -> Result<Value, String> {
    let text = raw.get();
    left.set(
        left.get()
            .checked_sub(1)
            .ok_or("the parameters hold more than 100000 values")?,
    );
    let broken = |error: serde_json::Error| format!("the parameters are not JSON: {error}");
    let deeper = depth
        .checked_sub(1)
        .ok_or("the parameters are nested too deep")?;
    match text.as_bytes().first() {
        Some(b'{') => {
            let fields: BTreeMap<String, &RawValue> = serde_json::from_str(text).map_err(broken)?;
            let mut map = BTreeMap::new();
            for (key, field) in fields {
                let path = if probes.is_some() {
                    join(path, &key)
                } else {
                    String::new()
                };
                let field = value(field, &path, deeper, left, probes)?;
                map.insert(key, field);
            }
            Ok(match probes {
                Some(probes) => Value::from_object(Probe {
                    path: path.to_owned(),
                    map,
                    probes: probes.clone(),
                }),
                None => Value::from(map),
            })
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(broken)?;
            let path = if probes.is_some() {
                format!("{path}[]")
            } else {
                String::new()
            };
            let items = items
                .into_iter()
                .map(|item| value(item, &path, deeper, left, probes));
            Ok(Value::from(items.collect::<Result<Vec<_>, _>>()?))
        }
        Some(b'-' | b'0'..=b'9') => Ok(number(text)),
        Some(b'"') => serde_json::from_str::<String>(text)
            .map(Value::from)
            .map_err(broken),
        Some(b't') => Ok(Value::from(true)),
        Some(b'f') => Ok(Value::from(false)),
        _ => Ok(Value::from(())),
    }
}

/// An integer or a float where that keeps the value, else the digits as a string: `12345678901234567.89`.
fn number(text: &str) -> Value {
    if let Ok(integer) = text.parse::<i64>() {
        return Value::from(integer);
    }
    if let Ok(integer) = text.parse::<i128>() {
        return Value::from(integer);
    }
    let mantissa = text.split(['e', 'E']).next().unwrap_or(text);
    let digits = mantissa
        .trim_start_matches(['-', '0', '.'])
        .bytes()
        .filter(u8::is_ascii_digit)
        .count();
    match text.parse::<f64>() {
        Ok(float) if digits <= FLOAT_DIGITS && float.is_finite() => Value::from(float),
        _ => Value::from(text),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// What the parameters were asked for in vain, and what stands in for it in the next attempt.
#[derive(Debug, Clone, Default)]
pub(crate) struct Probes(Arc<Mutex<Asked>>);

#[derive(Debug, Default)]
struct Asked {
    /// The paths looked up and not found, the latest last; items of a list are `list[]`.
    absent: Vec<String>,
    /// The paths that a stand-in is given for.
    stubbed: Vec<String>,
}

impl Probes {
    /// Gives a stand-in from now on for the last path not found that ends with the last part of `name`, or for the last
    /// of all when there is no name. Says its name, `None` when nothing fits or it already has a stand-in.
    pub(crate) fn stub(&self, name: Option<&str>) -> Option<String> {
        let mut asked = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let last = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
        let wanted = name.map(last);
        let path = asked
            .absent
            .iter()
            .rfind(|path| wanted.as_ref().is_none_or(|wanted| last(path) == *wanted))?
            .clone();
        if asked.stubbed.contains(&path) {
            return None;
        }
        asked.stubbed.push(path.clone());
        asked.absent.clear();
        Some(name.map_or(path, str::to_owned))
    }

    fn ask(&self, path: String) -> Option<Value> {
        let mut asked = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if asked.stubbed.contains(&path) {
            return Some(Value::from_object(Stub));
        }
        if asked.absent.last() != Some(&path) {
            // Only the last ones matter.
            if asked.absent.len() == 64 {
                asked.absent.remove(0);
            }
            asked.absent.push(path);
        }
        None
    }
}

/// Whether a value only stands in for a parameter that is missing.
pub(crate) fn is_stand_in(value: &Value) -> bool {
    value.downcast_object_ref::<Stub>().is_some()
}

/// An object of the parameters that notes what was not found.
#[derive(Debug)]
struct Probe {
    path: String,
    map: BTreeMap<String, Value>,
    probes: Probes,
}

impl Object for Probe {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let key = key.as_str()?;
        self.map
            .get(key)
            .cloned()
            .or_else(|| self.probes.ask(join(&self.path, key)))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.map.keys().map(Value::from).collect())
    }
}

/// Stands in for a missing parameter: it is empty, and so is all that it is asked for.
#[derive(Debug)]
struct Stub;

impl Object for Stub {
    fn get_value(self: &Arc<Self>, _key: &Value) -> Option<Value> {
        Some(Value::from_object(Self))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Empty
    }
}
