//! Headquarters' folder, and one command after the other on it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{Programs, SITE, code_in, run};

/// Headquarters: a folder of YAML, and keys apart from it.
pub struct Hq {
    folder: TempDir,
    program: PathBuf,
}

impl Hq {
    /// A new owner with one site.
    pub fn found(programs: &Programs, owner: &str) -> Result<Self> {
        Self::found_with(programs, owner, &[])
    }

    /// The same, with more arguments for `init`.
    pub fn found_with(programs: &Programs, owner: &str, options: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let hq = Self { folder, program: programs.provisioner.clone() };
        fs::create_dir(hq.dir())?;
        fs::write(hq.path("passphrase"), "a long passphrase for tests\n")?;
        hq.run(&[&["init", "--name", owner], options].concat())?;
        hq.run(&["site", "add", SITE])?;
        Ok(hq)
    }

    /// The folder under Git.
    pub fn dir(&self) -> PathBuf {
        self.path("hq")
    }

    /// A file beside that folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// One command of headquarters.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.arg("hq").arg("--dir").arg(self.dir()).arg("--keys").arg(self.path("keys"));
        command.arg("--passphrase-file").arg(self.path("passphrase")).args(words);
        run(&mut command)
    }

    /// Writes a file of the folder under Git, as an engineer does in an editor.
    pub fn edit(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.dir().join(name), text).with_context(|| format!("writing {name}"))
    }

    /// Imports rows of registrations; the first row names the columns.
    pub fn import(&self, csv: &str) -> Result<String> {
        let file = self.path("machines.csv");
        fs::write(&file, csv)?;
        self.run(&["machines", "import", &file.display().to_string()])
    }

    /// A bundle for the site: the path of its file.
    pub fn bundle(&self) -> Result<PathBuf> {
        let file = self.path("site.nbb");
        self.run(&["bundle", "build", SITE, "-o", &file.display().to_string()])?;
        Ok(file)
    }

    /// The code that headquarters reads back over the telephone to one that was read to it.
    pub fn answer(&self, slot: &str, code: &str) -> Result<String> {
        let approval = self.path("approval.jws").display().to_string();
        let said = self.run(&["approve", SITE, slot, code, "-o", &approval])?;
        let voice = said.split("read back").nth(1).and_then(code_in);
        voice.with_context(|| format!("headquarters reads no code back: {said}"))
    }

    /// What a machine of this owner carries: the anchors.
    pub fn owner_file(&self) -> PathBuf {
        self.dir().join("public/owner.json")
    }
}
