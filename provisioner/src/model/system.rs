//! Which versions the machines of a site run, where their whole system is ours.

use protocol::image::Kind;
use serde::{Deserialize, Serialize};

/// Which versions the machines of a site run, where their whole system is ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct SystemPlan {
    /// Of the operating system; none leaves each machine what it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Of Kubernetes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<String>,
    /// When what was staged is tried.
    pub activate: Activate,
}

/// When what was staged is tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activate {
    /// Once somebody at the site, or a later bundle, says so.
    #[default]
    Hold,
    /// As soon as it is whole, one machine after the other.
    Now,
}

impl SystemPlan {
    pub(super) fn says_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// The version of this kind.
    pub fn version(&self, kind: Kind) -> Option<&str> {
        match kind {
            Kind::Os => self.os.as_deref(),
            Kind::Kubernetes => self.kubernetes.as_deref(),
        }
    }

    /// What is wrong with it, and what would be right.
    pub fn fault(&self) -> Option<String> {
        let fault = self.kubernetes.as_deref().and_then(foreign_build)?;
        Some(format!("system.kubernetes {fault}"))
    }
}

/// What is wrong with a version of Kubernetes that is another distribution's: machines of ours run the kubelet and kubeadm
/// that Kubernetes publishes, and what stands behind a `+` counts in no comparison of versions.
pub fn foreign_build(version: &str) -> Option<String> {
    let (published, build) = version.split_once('+')?;
    Some(format!(
        "{version}: \"+{build}\" is the build of another distribution, as k3s names its own; machines of ours run what \
         Kubernetes publishes, as {published}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_distributions_build_of_kubernetes_is_named_and_kubernetes_own_is_not() {
        let fault = |version: &str| {
            SystemPlan { kubernetes: Some(version.to_owned()), ..SystemPlan::default() }.fault()
        };
        let said = fault("v1.36.2+k3s1").unwrap();
        assert!(said.contains("+k3s1") && said.contains("as v1.36.2"), "{said}");
        assert_eq!(
            [fault("v1.36.2"), fault("v1.37.0-rc.1"), SystemPlan::default().fault()],
            [None, None, None]
        );
    }
}
