//! The types of settings: how each is read from the wire, written there, and carried as a value.

use std::time::Duration;

use prost_types::{Duration as WireDuration, Timestamp};

use super::{
    super::{
        AdaptiveLimit, Algorithm, CheckHost, CheckPath, CheckType, DrainTimeout, EndTime, FallbackBody,
        FallbackContentType, FallbackFields, FallbackService, FaultHeader, GrpcService, HashBy, Methods,
        RateKey, Statuses, Upgrades,
    },
    Value,
};
use crate::time::{duration, is_valid, non_negative, system_time, timestamp};

/// Why a value of the wire is none of any setting.
pub(super) enum Unreadable {
    NegativeCount(i32),
    NegativeDuration,
    NegativeSize(i64),
    /// Why they are no methods.
    Methods(String),
    /// Of an enumeration.
    UnknownNumber(i32),
    /// A text that has none of the forms it may have.
    NoForm(String),
    /// Why they are no protocols to switch to.
    Upgrades(String),
    NoInstant,
}

/// The type that a setting has in a resolved policy, and how it is written on the wire.
pub(super) trait Setting: Copy {
    type Wire;
    fn read(wire: Self::Wire) -> Result<Value, Unreadable>;
    fn to_wire(self) -> Self::Wire;
    fn to_value(self) -> Value;
    /// Of a value that is of its kind and in its range.
    fn from_value(value: Value) -> Self;
}

/// What a table that fits itself never meets.
fn of_another_kind(value: Value) -> ! {
    panic!("{value} is not of the setting's kind")
}

impl Setting for Duration {
    type Wire = WireDuration;
    fn read(wire: WireDuration) -> Result<Value, Unreadable> {
        non_negative(wire).map(Value::Duration).ok_or(Unreadable::NegativeDuration)
    }
    fn to_wire(self) -> WireDuration {
        duration(self)
    }
    fn to_value(self) -> Value {
        Value::Duration(self)
    }
    fn from_value(value: Value) -> Self {
        if let Value::Duration(value) = value { value } else { of_another_kind(value) }
    }
}

impl Setting for DrainTimeout {
    type Wire = WireDuration;
    fn read(wire: WireDuration) -> Result<Value, Unreadable> {
        Duration::read(wire)
    }
    fn to_wire(self) -> WireDuration {
        self.0.to_wire()
    }
    fn to_value(self) -> Value {
        self.0.to_value()
    }
    fn from_value(value: Value) -> Self {
        Self(Duration::from_value(value))
    }
}

impl Setting for u32 {
    type Wire = i32;
    fn read(wire: i32) -> Result<Value, Unreadable> {
        u32::try_from(wire).map(Value::Count).map_err(|_| Unreadable::NegativeCount(wire))
    }
    fn to_wire(self) -> i32 {
        i32::try_from(self).unwrap_or(i32::MAX)
    }
    fn to_value(self) -> Value {
        Value::Count(self)
    }
    fn from_value(value: Value) -> Self {
        if let Value::Count(value) = value { value } else { of_another_kind(value) }
    }
}

impl Setting for u8 {
    type Wire = i32;
    fn read(wire: i32) -> Result<Value, Unreadable> {
        u32::read(wire)
    }
    fn to_wire(self) -> i32 {
        self.into()
    }
    fn to_value(self) -> Value {
        Value::Count(self.into())
    }
    fn from_value(value: Value) -> Self {
        u8::try_from(u32::from_value(value)).unwrap_or(u8::MAX)
    }
}

impl Setting for f64 {
    type Wire = f64;
    fn read(wire: f64) -> Result<Value, Unreadable> {
        // A negative zero is zero: equal values have equal bytes.
        Ok(Value::Ratio(if wire == 0.0 { 0.0 } else { wire }))
    }
    fn to_wire(self) -> f64 {
        self
    }
    fn to_value(self) -> Value {
        Value::Ratio(self)
    }
    fn from_value(value: Value) -> Self {
        if let Value::Ratio(value) = value { value } else { of_another_kind(value) }
    }
}

impl Setting for bool {
    type Wire = bool;
    fn read(wire: bool) -> Result<Value, Unreadable> {
        Ok(Value::Flag(wire))
    }
    fn to_wire(self) -> bool {
        self
    }
    fn to_value(self) -> Value {
        Value::Flag(self)
    }
    fn from_value(value: Value) -> Self {
        if let Value::Flag(value) = value { value } else { of_another_kind(value) }
    }
}

impl Setting for u64 {
    type Wire = i64;
    fn read(wire: i64) -> Result<Value, Unreadable> {
        u64::try_from(wire).map(Value::Size).map_err(|_| Unreadable::NegativeSize(wire))
    }
    fn to_wire(self) -> i64 {
        i64::try_from(self).unwrap_or(i64::MAX)
    }
    fn to_value(self) -> Value {
        Value::Size(self)
    }
    fn from_value(value: Value) -> Self {
        if let Value::Size(value) = value { value } else { of_another_kind(value) }
    }
}

impl Setting for Methods {
    type Wire = Vec<String>;
    fn read(wire: Vec<String>) -> Result<Value, Unreadable> {
        Methods::parse(wire.iter().map(String::as_str)).map(Value::Methods).map_err(Unreadable::Methods)
    }
    fn to_wire(self) -> Vec<String> {
        self.names().map(str::to_owned).collect()
    }
    fn to_value(self) -> Value {
        Value::Methods(self)
    }
    fn from_value(value: Value) -> Self {
        if let Value::Methods(value) = value { value } else { of_another_kind(value) }
    }
}

impl Setting for Algorithm {
    type Wire = i32;
    fn read(wire: i32) -> Result<Value, Unreadable> {
        Self::numbered(wire).map(Value::Algorithm).ok_or(Unreadable::UnknownNumber(wire))
    }
    fn to_wire(self) -> i32 {
        self.number()
    }
    fn to_value(self) -> Value {
        Value::Algorithm(self)
    }
    fn from_value(value: Value) -> Self {
        if let Value::Algorithm(value) = value { value } else { of_another_kind(value) }
    }
}

impl Setting for AdaptiveLimit {
    type Wire = i32;
    fn read(wire: i32) -> Result<Value, Unreadable> {
        Self::numbered(wire).map(Value::AdaptiveLimit).ok_or(Unreadable::UnknownNumber(wire))
    }
    fn to_wire(self) -> i32 {
        self.number()
    }
    fn to_value(self) -> Value {
        Value::AdaptiveLimit(self)
    }
    fn from_value(value: Value) -> Self {
        if let Value::AdaptiveLimit(value) = value { value } else { of_another_kind(value) }
    }
}

impl Setting for CheckType {
    type Wire = i32;
    fn read(wire: i32) -> Result<Value, Unreadable> {
        Self::numbered(wire).map(Value::CheckType).ok_or(Unreadable::UnknownNumber(wire))
    }
    fn to_wire(self) -> i32 {
        self.number()
    }
    fn to_value(self) -> Value {
        Value::CheckType(self)
    }
    fn from_value(value: Value) -> Self {
        if let Value::CheckType(value) = value { value } else { of_another_kind(value) }
    }
}

impl Setting for Upgrades {
    type Wire = Vec<String>;
    fn read(wire: Vec<String>) -> Result<Value, Unreadable> {
        Upgrades::parse(wire.iter().map(String::as_str)).map(Value::Upgrades).map_err(Unreadable::Upgrades)
    }
    fn to_wire(self) -> Vec<String> {
        self.names().map(str::to_owned).collect()
    }
    fn to_value(self) -> Value {
        Value::Upgrades(self)
    }
    fn from_value(value: Value) -> Self {
        if let Value::Upgrades(value) = value { value } else { of_another_kind(value) }
    }
}

impl Setting for EndTime {
    type Wire = Timestamp;
    fn read(wire: Timestamp) -> Result<Value, Unreadable> {
        match is_valid(&wire) {
            true => Ok(Value::EndTime(Self(system_time(wire)))),
            false => Err(Unreadable::NoInstant),
        }
    }
    fn to_wire(self) -> Timestamp {
        timestamp(self.0)
    }
    fn to_value(self) -> Value {
        Value::EndTime(self)
    }
    fn from_value(value: Value) -> Self {
        if let Value::EndTime(value) = value { value } else { of_another_kind(value) }
    }
}

/// Those that are texts on the wire, and say themselves which.
macro_rules! texts {
    ($($type:ident),*) => {$(
        impl Setting for $type {
            type Wire = String;
            fn read(wire: String) -> Result<Value, Unreadable> {
                wire.parse().map(Value::$type).map_err(|_| Unreadable::NoForm(wire))
            }
            fn to_wire(self) -> String {
                self.to_string()
            }
            fn to_value(self) -> Value {
                Value::$type(self)
            }
            fn from_value(value: Value) -> Self {
                if let Value::$type(value) = value { value } else { of_another_kind(value) }
            }
        }
    )*};
}

texts!(
    HashBy,
    CheckPath,
    CheckHost,
    Statuses,
    GrpcService,
    FaultHeader,
    FallbackService,
    FallbackFields,
    FallbackContentType,
    FallbackBody,
    RateKey
);
