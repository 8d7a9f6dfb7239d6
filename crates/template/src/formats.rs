//! The filters that write for a locale: `number`, `percent`, `money`, `date`, `time` and `datetime`.
//!
//! The patterns and names are CLDR's, compiled in. What cannot be read is an error that names the filter.

use std::fmt::Display;

use icu_calendar::{Date, Gregorian};
use icu_datetime::FixedCalendarDateTimeFormatter as Formatter;
use icu_datetime::fieldsets::{T, YMD, YMDE, YMDET, YMDT};
use icu_datetime::input::{DateTime, Time};
use icu_datetime::options::TimePrecision;
use icu_decimal::DecimalFormatter;
use icu_decimal::input::Decimal;
use icu_decimal::options::DecimalFormatterOptions;
use icu_experimental::dimension::currency::CurrencyType;
use icu_experimental::dimension::currency::formatter::CurrencyFormatter;
use icu_experimental::dimension::currency::options::CurrencyFormatterOptions;
use icu_experimental::dimension::percent::formatter::PercentFormatter;
use icu_experimental::dimension::percent::options::PercentFormatterOptions;
use icu_locale_core::extensions::unicode;
use jiff::civil;
use jiff::fmt::temporal::Pieces;
use jiff::tz::{Offset, TimeZone};
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};

use crate::filters::{defined, no_more};
use crate::meter::with_locale;
use crate::params::is_stand_in;

/// The most digits after the point.
const DIGITS: i16 = 20;
/// The longest number, in characters.
const LENGTH: usize = 400;

/// Puts the filters into `env`.
pub(crate) fn install(env: &mut Environment<'_>) {
    env.add_filter("number", number);
    env.add_filter("percent", percent);
    env.add_filter("money", money);
    env.add_filter(
        "date",
        |value: &Value, style: Option<&Value>, keywords: Kwargs| {
            moment("date", value, style, &keywords).and_then(|(when, style)| date(&when, style))
        },
    );
    env.add_filter(
        "time",
        |value: &Value, style: Option<&Value>, keywords: Kwargs| {
            moment("time", value, style, &keywords).and_then(|(when, style)| time(&when, style))
        },
    );
    env.add_filter(
        "datetime",
        |value: &Value, style: Option<&Value>, keywords: Kwargs| {
            moment("datetime", value, style, &keywords)
                .and_then(|(when, style)| datetime(&when, style))
        },
    );
}

fn wrong(filter: &str, reason: impl Display) -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("filter \"{filter}\": {reason}"),
    )
}

/// The number that a JSON number or a string of digits says, all of its digits kept.
fn decimal(filter: &str, value: &Value) -> Result<Decimal, Error> {
    let refused = || wrong(filter, format_args!("{} is not a number", kind(value)));
    defined(filter, value)?;
    if is_stand_in(value) {
        return Ok(Decimal::from(0));
    }
    if !matches!(value.kind(), ValueKind::Number | ValueKind::String) {
        return Err(refused());
    }
    let text = value.to_string();
    if text.len() > LENGTH
        || !text.starts_with(|first: char| first.is_ascii_digit() || first == '-')
    {
        return Err(refused());
    }
    let mut decimal: Decimal = text.parse().map_err(|_| refused())?;
    if value.kind() == ValueKind::Number && text.ends_with(".0") {
        decimal.trim_end();
    }
    Ok(decimal)
}

/// Exactly `digits` digits after the point; half goes away from zero.
fn with_digits(filter: &str, number: &mut Decimal, digits: Option<i16>) -> Result<(), Error> {
    let Some(digits) = digits else { return Ok(()) };
    if !(0..=DIGITS).contains(&digits) {
        return Err(wrong(
            filter,
            format_args!("the digits must be from 0 to {DIGITS}"),
        ));
    }
    number.round_with_mode(-digits, HALF_EXPAND);
    number.pad_end(-digits);
    Ok(())
}

const HALF_EXPAND: fixed_decimal::SignedRoundingMode =
    fixed_decimal::SignedRoundingMode::Unsigned(fixed_decimal::UnsignedRoundingMode::HalfExpand);

/// What a value is, in the words of JSON.
fn kind(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "null".to_owned(),
        other => format!("a {other}"),
    }
}

/// A filter's argument that is a text, `None` for a stand-in. What is undefined is told as such, null is none.
fn word(filter: &str, what: &str, value: &Value) -> Result<Option<String>, Error> {
    defined(filter, value)?;
    if is_stand_in(value) {
        return Ok(None);
    }
    value
        .as_str()
        .map(|text| Some(text.to_owned()))
        .ok_or_else(|| {
            wrong(
                filter,
                format_args!("{what} is {}, not a string", kind(value)),
            )
        })
}

/// `{{ 1234.5|number }}`, `{{ x|number(2) }}`: as many digits after the point as given, or exactly so many.
fn number(value: &Value, digits: Option<i16>) -> Result<String, Error> {
    let mut number = decimal("number", value)?;
    with_digits("number", &mut number, digits)?;
    with_locale(|locale| {
        DecimalFormatter::try_new(locale.into(), DecimalFormatterOptions::default())
    })
    .map(|formatter| formatter.format_to_string(&number))
    .map_err(|error| wrong("number", error))
}

/// `{{ 0.125|percent }}`: a share, so 1 is 100 %.
fn percent(value: &Value, digits: Option<i16>) -> Result<String, Error> {
    let mut number = decimal("percent", value)?;
    number.multiply_pow10(2);
    number.trim_start();
    with_digits("percent", &mut number, digits)?;
    with_locale(|locale| {
        PercentFormatter::try_new(locale.into(), PercentFormatterOptions::default())
    })
    .map(|formatter| formatter.format(&number).to_string())
    .map_err(|error| wrong("percent", error))
}

/// `{{ 19.9|money("EUR") }}`: an ISO 4217 code; the digits after the point are the currency's.
fn money(value: &Value, currency: &Value) -> Result<String, Error> {
    let number = decimal("money", value)?;
    let Some(currency) = word("money", "the currency", currency)? else {
        return Ok(String::new());
    };
    let refused = || {
        wrong(
            "money",
            format_args!("\"{currency}\" is not a currency code of ISO 4217"),
        )
    };
    if currency.len() != 3 || !currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Err(refused());
    }
    let code = unicode::Value::try_from_str(&currency).map_err(|_| refused())?;
    let code = CurrencyType::try_from(code).map_err(|_| refused())?;
    with_locale(|locale| {
        CurrencyFormatter::try_new_symbol(locale.into(), code, CurrencyFormatterOptions::default())
    })
    .map(|formatter| formatter.format_fixed_decimal(&number).to_string())
    .map_err(|error| wrong("money", error))
}

#[derive(Clone, Copy)]
enum Style {
    Short,
    Medium,
    Long,
    Full,
}

/// A point in time as it is written in one place: the date, and the time of day where the value had one.
struct Moment {
    date: civil::Date,
    time: Option<civil::Time>,
}

/// Reads ISO 8601 as PostgreSQL writes timestamps and dates in JSON. One with an offset is taken to the zone `tz`
/// (UTC when none is given); one without is local time already and stays as it is.
fn moment(
    filter: &str,
    value: &Value,
    style: Option<&Value>,
    keywords: &Kwargs,
) -> Result<(Moment, Style), Error> {
    defined(filter, value)?;
    let given = |name: &str| -> Result<Option<Value>, Error> {
        keywords.has(name).then(|| keywords.get(name)).transpose()
    };
    let style = match style {
        Some(style) => Some(style.clone()),
        None => given("style")?,
    };
    let style = style
        .map(|style| word(filter, "the style", &style))
        .transpose()?;
    let style = match style.flatten().as_deref().unwrap_or("medium") {
        "short" => Style::Short,
        "medium" => Style::Medium,
        "long" => Style::Long,
        "full" => Style::Full,
        other => {
            return Err(wrong(
                filter,
                format_args!("\"{other}\" is not a style: short, medium, long, full"),
            ));
        }
    };
    let zone = given("tz")?
        .map(|zone| word(filter, "tz", &zone))
        .transpose()?
        .flatten();
    no_more(keywords)?;
    let refused = || wrong(filter, "the value is not a date or a timestamp of ISO 8601");
    let text = if is_stand_in(value) {
        "2000-01-01T00:00:00Z"
    } else {
        value.as_str().ok_or_else(refused)?
    };
    let pieces = Pieces::parse(text).map_err(|_| refused())?;
    let (date, time) = (pieces.date(), pieces.time());
    let zone = zone.map(|zone| time_zone(filter, &zone)).transpose()?;
    let (Some(time), Some(offset)) = (time, pieces.to_numeric_offset()) else {
        return Ok((Moment { date, time }, style));
    };
    let at = offset
        .to_timestamp(date.to_datetime(time))
        .map_err(|_| refused())?;
    let local = at.to_zoned(zone.unwrap_or(TimeZone::UTC)).datetime();
    Ok((
        Moment {
            date: local.date(),
            time: Some(local.time()),
        },
        style,
    ))
}

/// A zone by its IANA name or as an offset such as `+02:00`.
fn time_zone(filter: &str, name: &str) -> Result<TimeZone, Error> {
    if name.starts_with(['+', '-']) {
        let offset: Option<Offset> = Pieces::parse(&format!("1970-01-01T00:00{name}"))
            .ok()
            .and_then(|pieces| pieces.to_numeric_offset());
        return offset.map(TimeZone::fixed).ok_or_else(|| {
            wrong(
                filter,
                format_args!("\"{name}\" is not an offset such as +02:00"),
            )
        });
    }
    TimeZone::get(name)
        .map_err(|_| wrong(filter, format_args!("time zone \"{name}\" is not known")))
}

impl Moment {
    fn date(&self, filter: &str) -> Result<Date<Gregorian>, Error> {
        let (year, month, day) = (self.date.year(), self.date.month(), self.date.day());
        Date::try_new_gregorian(i32::from(year), month as u8, day as u8)
            .map_err(|error| wrong(filter, error))
    }

    fn time(&self, filter: &str) -> Result<Time, Error> {
        let time = self
            .time
            .ok_or_else(|| wrong(filter, "the value is a date without a time"))?;
        Time::try_new(
            time.hour() as u8,
            time.minute() as u8,
            time.second() as u8,
            0,
        )
        .map_err(|error| wrong(filter, error))
    }

    fn both(&self, filter: &str) -> Result<DateTime<Gregorian>, Error> {
        Ok(DateTime {
            date: self.date(filter)?,
            time: self.time(filter)?,
        })
    }
}

fn date(when: &Moment, style: Style) -> Result<String, Error> {
    let date = when.date("date")?;
    with_locale(|locale| match style {
        Style::Short => {
            Formatter::try_new(locale.into(), YMD::short()).map(|f| f.format(&date).to_string())
        }
        Style::Medium => {
            Formatter::try_new(locale.into(), YMD::medium()).map(|f| f.format(&date).to_string())
        }
        Style::Long => {
            Formatter::try_new(locale.into(), YMD::long()).map(|f| f.format(&date).to_string())
        }
        Style::Full => {
            Formatter::try_new(locale.into(), YMDE::long()).map(|f| f.format(&date).to_string())
        }
    })
    .map_err(|error| wrong("date", error))
}

/// `short` has hours and minutes, every longer style the seconds too.
fn time(when: &Moment, style: Style) -> Result<String, Error> {
    let fields = if matches!(style, Style::Short) {
        T::hm()
    } else {
        T::hms()
    };
    let time = when.time("time")?;
    with_locale(|locale| Formatter::<Gregorian, T>::try_new(locale.into(), fields))
        .map(|formatter| formatter.format(&time).to_string())
        .map_err(|error| wrong("time", error))
}

/// The date in its style, the time with hours and minutes.
fn datetime(when: &Moment, style: Style) -> Result<String, Error> {
    let both = when.both("datetime")?;
    let day = |fields: YMD| -> YMDT { fields.with_time(TimePrecision::Minute) };
    let fields = match style {
        Style::Short => day(YMD::short()),
        Style::Medium => day(YMD::medium()),
        Style::Long | Style::Full => day(YMD::long()),
    };
    let full: YMDET = YMDE::long().with_time(TimePrecision::Minute);
    with_locale(|locale| match style {
        Style::Full => Formatter::try_new(locale.into(), full).map(|f| f.format(&both).to_string()),
        _ => Formatter::try_new(locale.into(), fields).map(|f| f.format(&both).to_string()),
    })
    .map_err(|error| wrong("datetime", error))
}
