//! What callers may ask of a list: which items, in which order.
//!
//! A [`Schema`] names the fields of an item once; [`Filter`] and [`Order`] are read against it, refuse what it does not
//! have, and are then applied to each item. Nothing here knows what is listed, holds a lock or does IO.

mod filter;
mod order;
mod schema;
#[cfg(test)]
mod tests;
mod text;

pub(crate) use self::{
    filter::Filter,
    order::{First, Order},
    schema::{Field, Read, Schema, Words},
};
