//! The engine's own filters, made to pay for what they copy, and a few plain ones besides.
//!
//! A filter whose result can be much longer than its input computes the length before it starts. The internal filters
//! are those that [`crate::guard`] puts into a source.

use minijinja::filters as builtin;
use minijinja::tests as builtin_tests;
use minijinja::value::{Kwargs, ObjectRepr, Rest, Value, ValueKind, ValueOrKwargs};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State};

use crate::meter::{self, pay, pay_compared, pay_items, pay_text, too_much};
use crate::{escape, guard};

/// The greatest width or precision of `format`, and the greatest width of one level of indentation.
const WIDTH: usize = 1000;

/// The filters that take text, for which null is empty.
const OF_TEXT: &[&str] = &[
    "lower",
    "upper",
    "title",
    "capitalize",
    "trim",
    "split",
    "lines",
    "string",
    "safe",
    "urlencode",
    "replace",
    "indent",
];

/// Puts the filters into `env`, in place of the engine's of the same names.
pub(crate) fn install(env: &mut Environment<'_>) {
    env.remove_filter("pprint");
    env.remove_global("debug");
    internal(env);
    tests(env);
    for (name, filter) in [
        ("lower", Value::from_function(builtin::lower)),
        ("upper", Value::from_function(builtin::upper)),
        ("title", Value::from_function(builtin::title)),
        ("capitalize", Value::from_function(builtin::capitalize)),
        ("trim", Value::from_function(builtin::trim)),
        ("split", Value::from_function(builtin::split)),
        ("lines", Value::from_function(builtin::lines)),
        ("string", Value::from_function(builtin::string)),
        ("reverse", Value::from_function(builtin::reverse)),
        ("safe", Value::from_function(builtin::safe)),
        ("urlencode", Value::from_function(builtin::urlencode)),
        ("int", Value::from_function(builtin::int)),
        ("float", Value::from_function(builtin::float)),
        ("sum", Value::from_function(builtin::sum)),
    ] {
        paying(env, name, filter, text_cost);
    }
    env.add_filter("default", default);
    env.add_filter("d", default);
    for (name, filter) in [
        ("length", Value::from_function(builtin::length)),
        ("count", Value::from_function(builtin::length)),
        ("list", Value::from_function(builtin::list)),
        ("map", Value::from_function(builtin::map)),
        ("select", Value::from_function(builtin::select)),
        ("reject", Value::from_function(builtin::reject)),
        ("selectattr", Value::from_function(builtin::selectattr)),
        ("rejectattr", Value::from_function(builtin::rejectattr)),
        ("items", Value::from_function(builtin::items)),
        ("chain", Value::from_function(builtin::chain)),
        ("zip", Value::from_function(builtin::zip)),
    ] {
        paying(env, name, filter, items_cost);
    }
    for (name, filter) in [
        ("sort", Value::from_function(builtin::sort)),
        ("unique", Value::from_function(builtin::unique)),
        ("groupby", Value::from_function(builtin::groupby)),
        ("dictsort", Value::from_function(builtin::dictsort)),
        ("min", Value::from_function(builtin::min)),
        ("max", Value::from_function(builtin::max)),
    ] {
        paying(env, name, filter, compared_cost);
    }
    paying(
        env,
        "batch",
        Value::from_function(builtin::batch),
        count_cost,
    );
    paying(
        env,
        "slice",
        Value::from_function(builtin::slice),
        count_cost,
    );
    paying(env, "join", Value::from_function(builtin::join), join_cost);
    paying(
        env,
        "replace",
        Value::from_function(builtin::replace),
        replace_cost,
    );
    paying(
        env,
        "indent",
        Value::from_function(builtin::indent),
        indent_cost,
    );
    paying(
        env,
        "format",
        Value::from_function(builtin::format),
        format_cost,
    );
    paying(
        env,
        "tojson",
        Value::from_function(builtin::tojson),
        json_cost,
    );
    env.add_filter("escape", escape::filter);
    env.add_filter("e", escape::filter);
    env.add_filter("repeat", repeat);
    env.add_filter("nl2br", nl2br);
}

/// Tests that look at more than the kind of a value, in place of the engine's: `select` asks one for each item.
fn tests(env: &mut Environment<'_>) {
    for (names, test) in [
        (&["in"][..], Value::from_function(builtin_tests::is_in)),
        (
            &["eq", "equalto", "=="],
            Value::from_function(builtin_tests::is_eq),
        ),
        (&["ne", "!="], Value::from_function(builtin_tests::is_ne)),
        (
            &["lt", "lessthan", "<"],
            Value::from_function(builtin_tests::is_lt),
        ),
        (&["le", "<="], Value::from_function(builtin_tests::is_le)),
        (
            &["gt", "greaterthan", ">"],
            Value::from_function(builtin_tests::is_gt),
        ),
        (&["ge", ">="], Value::from_function(builtin_tests::is_ge)),
        (
            &["startingwith"],
            Value::from_function(builtin_tests::is_startingwith),
        ),
        (
            &["endingwith"],
            Value::from_function(builtin_tests::is_endingwith),
        ),
        (&["lower"], Value::from_function(builtin_tests::is_lower)),
        (&["upper"], Value::from_function(builtin_tests::is_upper)),
    ] {
        for name in names {
            let test = test.clone();
            env.add_test(*name, move |state: &mut State, args: Rest<Value>| {
                args.iter().try_for_each(pay_compared)?;
                test.call(state, &args)
            });
        }
    }
}

fn internal(env: &mut Environment<'_>) {
    env.add_filter(guard::TEXT, |value: &Value| {
        pay_text(value).map(|()| printed(value))
    });
    env.add_filter(guard::ITEMS, |value: &Value| {
        pay_items(value).map(|()| value.clone())
    });
    env.add_filter(guard::COMPARED, |value: &Value| {
        pay_compared(value).map(|()| value.clone())
    });
    env.add_filter(guard::SETTLE, meter::settle);
    env.add_filter(guard::LITERAL, |bytes: usize| pay(bytes).map(|()| ""));
    env.add_filter(guard::NUMBER, |value: &Value| match value.kind() {
        ValueKind::Number | ValueKind::Bool | ValueKind::Undefined => Ok(value.clone()),
        kind => Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("`*` is for numbers, not for a {kind}: write \"-\"|repeat(40) to repeat text"),
        )),
    });
}

/// A value as it is printed where only text can stand: null is empty.
pub(crate) fn printed(value: &Value) -> Value {
    if value.is_none() {
        Value::from("")
    } else {
        value.clone()
    }
}

/// `{{ x|default("") }}`: for what is undefined or null, with `true` for all that counts as false.
fn default(state: &State, value: &Value, args: Rest<Value>) -> Result<Value, Error> {
    if value.is_none() {
        builtin::default(state, &Value::UNDEFINED, args)
    } else {
        builtin::default(state, value, args)
    }
}

/// What a filter pays before it runs, by its arguments (the first is the value, keywords are a map at the end).
type Cost = fn(&[Value]) -> Result<(), Error>;

fn paying(env: &mut Environment<'_>, name: &'static str, filter: Value, cost: Cost) {
    env.add_filter(name, move |state: &mut State, args: Rest<ValueOrKwargs>| {
        let mut args = args.into_values();
        if let Some(first) = args.first_mut() {
            *first = evaluated(first)?;
            if OF_TEXT.contains(&name) {
                *first = printed(first);
            }
        }
        cost(&args)?;
        evaluated(&filter.call(state, &args)?)
    });
}

/// A list where `value` would be computed again each time that it is iterated.
fn evaluated(value: &Value) -> Result<Value, Error> {
    if value
        .as_object()
        .is_none_or(|object| object.repr() != ObjectRepr::Iterable)
    {
        return Ok(value.clone());
    }
    let mut items = Vec::new();
    for item in value.try_iter()? {
        pay(24)?;
        items.push(item);
    }
    Ok(Value::from(items))
}

fn text_cost(args: &[Value]) -> Result<(), Error> {
    args.iter().try_for_each(pay_text)
}

/// A text is a list of its characters here.
fn items_cost(args: &[Value]) -> Result<(), Error> {
    if let Some(text) = args.first().and_then(Value::as_str) {
        pay(text.len().saturating_mul(24))?;
    }
    args.iter().try_for_each(pay_items)
}

/// Items are compared, some of them several times.
fn compared_cost(args: &[Value]) -> Result<(), Error> {
    items_cost(args)?;
    args.iter().try_for_each(|arg| {
        pay_compared(arg)?;
        pay_compared(arg)
    })
}

/// The argument of that place or that keyword, as a number; 0 when there is none.
fn number(args: &[Value], place: usize, keyword: &str) -> usize {
    let keywords = args.last().and_then(|last| last.get_attr(keyword).ok());
    let positional = args.get(place).and_then(Value::as_usize);
    positional
        .or_else(|| keywords.as_ref().and_then(Value::as_usize))
        .unwrap_or(0)
}

fn count_cost(args: &[Value]) -> Result<(), Error> {
    items_cost(args)?;
    pay(number(args, 1, "count").saturating_mul(24))
}

fn join_cost(args: &[Value]) -> Result<(), Error> {
    text_cost(args)?;
    let joiner = args.get(1).and_then(Value::as_str).map_or(0, str::len);
    let items = args.first().and_then(Value::len).unwrap_or(0);
    pay(joiner.saturating_mul(6).saturating_mul(items))
}

fn replace_cost(args: &[Value]) -> Result<(), Error> {
    text_cost(args)?;
    if let [value, from, to, ..] = args {
        let (value, from, to) = (value.to_string(), from.to_string(), to.to_string());
        let found = if from.is_empty() {
            value.len() + 1
        } else {
            value.matches(from.as_str()).count()
        };
        // Escaping may make each character up to six.
        pay(found.saturating_mul(to.len()).saturating_mul(6))?;
    }
    Ok(())
}

fn indent_cost(args: &[Value]) -> Result<(), Error> {
    text_cost(args)?;
    let lines = args
        .first()
        .and_then(Value::as_str)
        .map_or(0, |text| text.lines().count() + 1);
    pay(number(args, 1, "width").saturating_mul(lines))
}

fn format_cost(args: &[Value]) -> Result<(), Error> {
    text_cost(args)?;
    let Some(pattern) = args.first().and_then(Value::as_str) else {
        return Ok(());
    };
    let widths = pattern
        .split(|digit: char| !digit.is_ascii_digit())
        .filter(|run| !run.is_empty());
    if widths
        .into_iter()
        .any(|run| run.parse().map_or(true, |width: usize| width > WIDTH))
        || pattern.contains('*')
    {
        return Err(too_much(meter::MEMORY));
    }
    pay(pattern.matches('%').count().saturating_mul(2 * WIDTH))
}

fn json_cost(args: &[Value]) -> Result<(), Error> {
    text_cost(args)?;
    if number(args, 1, "indent") > 16 {
        return Err(too_much(meter::MEMORY));
    }
    Ok(())
}

/// `"-"|repeat(40)`: the text so many times.
fn repeat(text: &str, times: usize) -> Result<String, Error> {
    pay(text.len().saturating_mul(times))?;
    Ok(text.repeat(times))
}

/// Text with a `<br>` before each line break, escaped first where the part is HTML and the text is not marked safe.
fn nl2br(state: &State, value: &Value) -> Result<Value, Error> {
    pay_text(value)?;
    defined("nl2br", value)?;
    let text = printed(value).to_string();
    pay(text.len().saturating_mul(6))?;
    if matches!(state.auto_escape(), AutoEscape::None) {
        return Ok(Value::from(text));
    }
    let escaped = if value.is_safe() {
        text
    } else {
        escape::html(&text)
    };
    Ok(Value::from_safe_string(
        escaped.replace("\r\n", "\n").replace('\n', "<br>\n"),
    ))
}

/// The keywords of a filter, none left over.
pub(crate) fn no_more(keywords: &Kwargs) -> Result<(), Error> {
    keywords.assert_all_used()
}

/// Refuses an undefined value, as the engine's own filters do: only its own errors get the name of what is undefined.
pub(crate) fn defined(filter: &str, value: &Value) -> Result<(), Error> {
    if !value.is_undefined() {
        return Ok(());
    }
    let unnamed = || {
        Error::new(
            ErrorKind::UndefinedError,
            format!("filter \"{filter}\": the value is undefined"),
        )
    };
    Err(builtin::length(value).err().unwrap_or_else(unnamed))
}
