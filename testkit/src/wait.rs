//! Waiting for a state, not for a time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Far more than anything that a test waits for needs, so that only a fault runs into it.
const PATIENCE: Duration = Duration::from_secs(90);

/// Asks again until it holds. When it never does, the error is the last answer.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if start.elapsed() > PATIENCE => bail!("never {what}: {error:#}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
