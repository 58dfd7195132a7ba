//! Configuration from environment variables (`POSTRIDER_…`) and, below them, a TOML file named by `POSTRIDER_CONFIG`.
//!
//! A secret can also be in a file, which `POSTRIDER_…_FILE` names.
//!
//! A binary lists its settings once, each with its type, default and meaning. Loading checks all of them and reports
//! every mistake together; the same list is the table in the README.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use config::{Config, Environment, File, FileFormat};

use crate::secret_files::{self, SecretFile};

const PREFIX: &str = "POSTRIDER";

/// One setting of a binary.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The name in a file; in the environment it is in capitals and begins with `POSTRIDER_`.
    pub name: &'static str,
    /// What holds when nothing is said. `None`: it must be said.
    pub default: Option<&'static str>,
    /// What it is for, with its unit.
    pub help: &'static str,
    secret: bool,
    check: fn(&str) -> Result<(), String>,
}

impl Setting {
    /// A setting that must be given.
    pub const fn required<T: FromStr<Err: fmt::Display>>(name: &'static str, help: &'static str) -> Self {
        Self { name, default: None, help, secret: false, check: check::<T> }
    }

    /// A setting that has a default.
    pub const fn optional<T: FromStr<Err: fmt::Display>>(
        name: &'static str,
        default: &'static str,
        help: &'static str,
    ) -> Self {
        Self { name, default: Some(default), help, secret: false, check: check::<T> }
    }

    /// The same setting, whose value is never repeated in a message.
    pub const fn secret(self) -> Self {
        Self { secret: true, ..self }
    }

    /// The environment variable.
    pub fn variable(&self) -> String {
        format!("{PREFIX}_{}", self.name.to_uppercase())
    }

    /// The environment variable that names a file with the value instead. Secrets have one.
    pub fn file_variable(&self) -> Option<String> {
        self.secret.then(|| format!("{}_FILE", self.variable()))
    }
}

fn check<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<(), String> {
    text.parse::<T>().map(|_| ()).map_err(|error| error.to_string())
}

/// Every mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} mistake(s):", self.0.len())?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    /// A mistake that shows only once the values are put to use.
    pub fn new(setting: &Setting, problem: impl fmt::Display) -> Self {
        Self(vec![format!("{}: {problem}", setting.variable())])
    }
}

/// Checked values.
pub struct Settings {
    config: Config,
    /// The secrets that are in files, by the name of the setting.
    files: HashMap<&'static str, (PathBuf, String)>,
}

impl Settings {
    /// Loads and checks all of `settings`.
    pub fn load(settings: &[Setting]) -> Result<Self, ConfigError> {
        Self::load_from(settings, &std::env::var(format!("{PREFIX}_CONFIG")).unwrap_or_default(), None)
    }

    fn load_from(
        settings: &[Setting],
        file: &str,
        environment: Option<config::Map<String, String>>,
    ) -> Result<Self, ConfigError> {
        let mut builder = Config::builder();
        if !file.is_empty() {
            builder = builder.add_source(File::from(Path::new(file)).format(FileFormat::Toml));
        }
        let environment = Environment::with_prefix(PREFIX).ignore_empty(true).source(environment);
        let config = builder
            .add_source(environment)
            .build()
            .map_err(|error| ConfigError(vec![format!("{PREFIX}_CONFIG: {error}")]))?;
        let mut loaded = Self { config, files: HashMap::new() };
        let mut problems: Vec<String> =
            settings.iter().filter_map(|setting| loaded.read_file(setting).err()).collect();
        if problems.is_empty() {
            problems.extend(settings.iter().filter_map(|setting| loaded.problem(setting)));
        }
        if problems.is_empty() { Ok(loaded) } else { Err(ConfigError(problems)) }
    }

    /// The value of one of the settings that were loaded.
    pub fn get<T: FromStr<Err: fmt::Display>>(&self, setting: &Setting) -> Result<T, ConfigError> {
        let text = self.text(setting).ok_or_else(|| ConfigError::new(setting, "is not set"))?;
        text.parse().map_err(|error| ConfigError::new(setting, error))
    }

    /// The file that a secret is in, if it is in one, with what is to take on what it says later.
    pub fn secret_file(
        &self,
        setting: &Setting,
        take_on: impl Fn(&str) -> Result<(), String> + Send + 'static,
    ) -> Option<SecretFile> {
        let (path, content) = self.files.get(setting.name)?;
        Some(SecretFile::new(setting.file_variable()?, path.clone(), content.clone(), take_on))
    }

    fn read_file(&mut self, setting: &Setting) -> Result<(), String> {
        let Some(variable) = setting.file_variable() else { return Ok(()) };
        let Ok(path) = self.config.get_string(&format!("{}_file", setting.name)) else { return Ok(()) };
        if self.config.get_string(setting.name).is_ok() {
            return Err(format!("{} and {variable} are both set; one of them must go", setting.variable()));
        }
        let path = PathBuf::from(path);
        let content = secret_files::read(&path).map_err(|problem| format!("{variable}: {problem}"))?;
        self.files.insert(setting.name, (path, content));
        Ok(())
    }

    fn problem(&self, setting: &Setting) -> Option<String> {
        let variable = setting.variable();
        let Some(text) = self.text(setting) else {
            return Some(format!("{variable} is not set; it is: {}", setting.help));
        };
        let problem = (setting.check)(&text).err()?;
        if setting.secret {
            Some(format!("{variable}: {problem}"))
        } else {
            Some(format!("{variable} is {text:?}: {problem}"))
        }
    }

    fn text(&self, setting: &Setting) -> Option<String> {
        if let Some((_, content)) = self.files.get(setting.name) {
            return Some(content.clone());
        }
        self.config.get_string(setting.name).ok().or_else(|| setting.default.map(str::to_owned))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: Setting = Setting::required::<u16>("port", "the port");
    const SIZE: Setting = Setting::optional::<u32>("size", "7", "the size");
    const KEY: Setting = Setting::required::<u64>("key", "the key").secret();

    fn load(pairs: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        let environment =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Settings::load_from(&[PORT, SIZE, KEY], "", Some(environment))
    }

    #[test]
    fn values_come_from_the_environment_and_defaults_fill_in() {
        let settings =
            load(&[("POSTRIDER_PORT", "80"), ("POSTRIDER_KEY", "1"), ("POSTRIDER_SIZE", "")]).unwrap();
        assert_eq!(settings.get::<u16>(&PORT), Ok(80));
        assert_eq!(settings.get::<u32>(&SIZE), Ok(7));
    }

    #[test]
    fn a_secret_may_be_in_a_file_and_nothing_else_may() {
        let path = std::env::temp_dir().join(format!("postrider-settings-{}", std::process::id()));
        std::fs::write(&path, "42\n").unwrap();
        let file = ("POSTRIDER_KEY_FILE", path.to_str().unwrap());
        let settings = load(&[("POSTRIDER_PORT", "80"), file]).unwrap();
        assert_eq!(settings.get::<u64>(&KEY), Ok(42));
        assert!(settings.secret_file(&KEY, |_| Ok(())).is_some());
        let both = load(&[("POSTRIDER_PORT", "80"), ("POSTRIDER_KEY", "1"), file]).err().unwrap().to_string();
        assert!(both.contains("POSTRIDER_KEY and POSTRIDER_KEY_FILE are both set"), "{both}");
        std::fs::write(&path, "hunter2").unwrap();
        let wrong = load(&[("POSTRIDER_PORT", "80"), file]).err().unwrap().to_string();
        assert!(wrong.contains("POSTRIDER_KEY") && !wrong.contains("hunter2"), "{wrong}");
        std::fs::remove_file(&path).unwrap();
        let missing = load(&[("POSTRIDER_PORT", "80"), file]).err().unwrap().to_string();
        assert!(missing.contains("POSTRIDER_KEY_FILE: ") && missing.contains("cannot be read"), "{missing}");
        let not_secret = load(&[("POSTRIDER_PORT_FILE", "/etc/hostname"), ("POSTRIDER_KEY", "1")]);
        assert!(not_secret.err().unwrap().to_string().contains("POSTRIDER_PORT is not set"));
    }

    #[test]
    fn every_mistake_is_in_one_report_and_secrets_are_not() {
        let report =
            load(&[("POSTRIDER_SIZE", "large"), ("POSTRIDER_KEY", "hunter2")]).err().unwrap().to_string();
        assert!(report.contains("3 mistake(s)"), "{report}");
        assert!(report.contains("POSTRIDER_PORT is not set; it is: the port"), "{report}");
        assert!(report.contains("POSTRIDER_SIZE is \"large\""), "{report}");
        assert!(report.contains("POSTRIDER_KEY") && !report.contains("hunter2"), "{report}");
    }
}
