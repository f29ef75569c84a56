//! libFuzzer over the kinds of input that `garrison::testing::fuzz` lists. `run.sh` says how it is built and run.
//!
//! `GARRISON_FUZZ` names the kind; without it the names are printed, one a line. `GARRISON_FUZZ_SEEDS` is a folder into which
//! its seeds are written first.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;
use std::{env, fs, process};

use garrison::testing::fuzz::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let Ok(name) = env::var("GARRISON_FUZZ") else {
        TARGETS.iter().for_each(|target| println!("{}", target.name));
        process::exit(0);
    };
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("there is no {name:?} to fuzz"))
});

fuzz_target!(
    init: {
        let seeds = (TARGET.seeds)();
        if let Some(folder) = env::var_os("GARRISON_FUZZ_SEEDS").map(PathBuf::from) {
            for (index, seed) in seeds.iter().enumerate() {
                fs::write(folder.join(format!("seed-{index}")), seed).expect("the folder of seeds is there");
            }
        }
    },
    |bytes: &[u8]| (TARGET.check)(bytes)
);
