//! Compiles the fleet protocol and those of device plugins, and stamps the build with its time.

use std::env;
use std::error::Error;
use std::time::{SystemTime, UNIX_EPOCH};

const FLEET: &str = "garrison/fleet/v1/fleet.proto";
const DEVICES: [&str; 2] = ["deviceplugin/v1beta1/deviceplugin.proto", "podresources/v1/podresources.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    // Messages and clients. `link::server` serves the calls itself, since it sends bytes encoded once for all sessions.
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .bytes(".")
        .btree_map(".")
        // `link::pb` shows them without what must not be seen.
        .skip_debug([".garrison.fleet.v1.Token", ".garrison.fleet.v1.BlobChunk"])
        .compile_fds(protox::compile([FLEET], ["proto"])?)?;
    // Both ends of each service: tests play the other.
    tonic_prost_build::configure()
        .build_transport(false)
        .btree_map(".")
        .compile_fds(protox::compile(DEVICES, ["proto"])?)?;

    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let secs = match env::var("SOURCE_DATE_EPOCH") {
        Ok(secs) => secs.parse()?,
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    println!("cargo::rustc-env=GARRISON_BUILD_UNIX_SECS={secs}");
    Ok(())
}
