//! The images of the operating system.

use anyhow::Result;
use std::path::Path;
use std::time::Instant;

/// Builds them into a folder, and says what became of them.
pub fn images(out: &Path) -> Result<()> {
    crate::need::need()?;
    let start = Instant::now();
    eprintln!("images: the agent, what the firmware starts, the system");
    let built = tests::stage::images(out)?;
    for file in [&built.uki, &built.os.1, &built.kubernetes.1] {
        #[allow(clippy::cast_precision_loss)] // No image is larger than 2^52 bytes.
        let size = std::fs::metadata(file)?.len() as f64 / 1e6;
        println!("{size:>6.1} MB  {}", file.display());
    }
    eprintln!("images: built in {} s", start.elapsed().as_secs());
    Ok(())
}
