//! Strict templates: an unknown variable is an error, and a value can never leave the place it was put in.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde::Serialize;

/// In what syntax a template's output is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// YAML: values are written as JSON, which is YAML with every text quoted.
    Yaml,
    /// JSON.
    Json,
    /// TOML: JSON's texts, numbers and booleans are TOML's too.
    Toml,
}

/// A template that cannot be rendered.
#[derive(Debug, thiserror::Error)]
#[error("template {name}, line {line}: {why}")]
pub struct TemplateError {
    /// Its name, `kubeadm/kubelet.yaml`.
    pub name: String,
    /// The line, 0 where unknown.
    pub line: usize,
    /// What is wrong; never a value.
    pub why: String,
}

/// Templates by name: those built in, or HQ's instead of them.
#[derive(Clone, Debug)]
pub struct Templates(BTreeMap<String, String>);

macro_rules! built_in {
    ($($name:literal),*) => {
        BTreeMap::from([$(($name.to_owned(), include_str!(concat!("../../../templates/", $name)).to_owned())),*])
    };
}

impl Templates {
    /// Those that come with the program.
    pub fn built_in() -> Self {
        Self(built_in!(
            "kubeadm/kubelet.yaml",
            "kubeadm/kubelet.conf",
            "kubeadm/containerd.toml",
            "kubeadm/cni.conflist",
            "kubeadm/disk.json",
            "kubeadm/network.json",
            "kubeadm/services.json",
            "kubeadm/kubeadm.yaml",
            "kubeadm/kube-apiserver.yaml",
            "kubeadm/add-ons.yaml"
        ))
    }

    /// Whether a distribution has any.
    pub fn has(&self, distribution: &str) -> bool {
        self.0.keys().any(|name| name.split('/').next() == Some(distribution))
    }

    /// Whether a distribution has this one.
    pub fn has_one(&self, distribution: &str, name: &str) -> bool {
        self.0.contains_key(&format!("{distribution}/{name}"))
    }

    /// Puts HQ's template in the place of the built-in one of that name.
    pub fn set(&mut self, name: &str, text: &str) {
        self.0.insert(name.to_owned(), text.to_owned());
    }

    /// The output of one template.
    pub fn render<T: Serialize>(
        &self,
        distribution: &str,
        name: &str,
        syntax: Syntax,
        context: &T,
    ) -> Result<String, TemplateError> {
        let name = format!("{distribution}/{name}");
        let missing =
            || TemplateError { name: name.clone(), line: 0, why: "there is no such template".to_owned() };
        let source = self.0.get(&name).ok_or_else(missing)?;
        let wrong = |error: &minijinja::Error| TemplateError {
            name: name.clone(),
            line: error.line().unwrap_or(0),
            why: format!(
                "{}{}",
                error.kind(),
                error.detail().map(|why| format!(": {why}")).unwrap_or_default()
            ),
        };
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let syntax_rules =
            SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build();
        environment.set_syntax(syntax_rules.map_err(|error| wrong(&error))?);
        // Each of the three syntaxes takes a JSON scalar as it stands.
        let (Syntax::Yaml | Syntax::Json | Syntax::Toml) = syntax;
        environment.set_auto_escape_callback(|_| AutoEscape::Json);
        // What a template may cost: no loop of HQ's making keeps a provisioner busy for long.
        environment.set_fuel(Some(100_000));
        let template = environment.template_from_named_str(&name, source).map_err(|error| wrong(&error))?;
        template.render(Serde(context)).map_err(|error| wrong(&error))
    }
}
