mod calls;
mod conversions;
