//! One engine on its own: no network, ready at once.
//!
//! `cargo run --example quickstart`

use std::time::Duration;

use gridkv::{Config, Engine, Error, WriteOptions};

fn main() -> Result<(), Error> {
    let engine = Engine::start(Config::standalone("app-1"))?;

    engine.set("user:1", "Ada")?;
    engine.set("user:2", "Grace")?;
    let hour = WriteOptions::new().ttl(Duration::from_secs(3600));
    engine.set_with("session:42", "user:1", &hour)?;

    let name = engine.get("user:1")?.expect("it was just set");
    println!("user:1 is {}", String::from_utf8_lossy(&name));
    println!("user:2 has {:?} letters", engine.read("user:2", |name| name.len())?);

    engine.delete("user:2")?;
    println!("user:2 exists: {}", engine.contains("user:2")?);

    for key in engine.local_keys("") {
        println!("a key: {}", String::from_utf8_lossy(&key?));
    }
    Ok(())
}
