mod calls;
mod conversions;
mod recorded;
