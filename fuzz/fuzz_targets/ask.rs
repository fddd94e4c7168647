#![no_main]

#[path = "../../tests/hostile/fuzz/entries.rs"]
mod entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::entry("ask")(bytes));
