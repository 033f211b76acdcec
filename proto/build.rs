//! Compiles `gateway/v1/*.proto` with a pure Rust compiler, so that building needs no protoc. What is spoken to etcd is
//! compiled apart: it is in no descriptor that anybody is shown.

use std::{error::Error, path::PathBuf};

const FILES: [&str; 8] = [
    "gateway/v1/types.proto",
    "gateway/v1/policy_service.proto",
    "gateway/v1/route_service.proto",
    "gateway/v1/registry_service.proto",
    "gateway/v1/discovery_service.proto",
    "gateway/v1/observability_service.proto",
    "gateway/v1/peer_service.proto",
    "gateway/v1/store_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=gateway");
    println!("cargo:rerun-if-changed=etcd");
    let mut compiler = protox::Compiler::new(["."])?;
    // Imports make the descriptors complete for reflection, source info carries the comments.
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(FILES)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("gateway.bin"), compiler.encode_file_descriptor_set())?;
    // Type names let one generic function find a message's descriptor.
    let mut config = prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure().compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    let etcd = protox::compile(["etcd/rpc.proto"], ["."])?;
    // The server's half is for tests of the client.
    tonic_prost_build::configure().compile_fds(etcd)?;
    Ok(())
}
