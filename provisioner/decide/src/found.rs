//! Whether a machine founds the cluster of its site: by HQ's word, never by a guess from silence.

/// What is known of a site and of the machine that asks what it is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // Facts that are true or not, each on its own.
pub struct Founding {
    /// The provisioner has a cluster.
    pub attached: bool,
    /// HQ says that the machine in this slot founds the cluster.
    pub named: bool,
    /// The slot is a control-plane one.
    pub control_plane: bool,
    /// Others know where its API server is: the slot has an address.
    pub address: bool,
    /// HQ's registration names the slot: no machine founds because a place was free.
    pub registered_for_it: bool,
    /// HQ sent a voucher for it: a voice is not enough.
    pub vouched: bool,
    /// The machine's TPM is the one that holds this provisioner's own key.
    pub same_tpm: bool,
    /// Which installation was told to found the cluster before.
    pub founder: Founder,
    /// The provisioner has lost what it knew: it cannot tell that the site has no cluster.
    pub forgetful: bool,
    /// No other slot is a control-plane one: a cluster of this site is on this machine's disk or nowhere.
    pub alone: bool,
}

/// Which installation was told to found the cluster before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Founder {
    /// None.
    #[default]
    Nobody,
    /// The one that asks: it goes on.
    It,
    /// Another one.
    Another,
}

/// Whether the machine founds the cluster. What HQ says and what is there may not fit: then why not, and what to do.
pub fn founds(founding: &Founding) -> Result<bool, &'static str> {
    if founding.attached || !founding.named {
        return Ok(false);
    }
    if !founding.control_plane {
        return Err("the slot that founds the cluster is no control-plane slot: HQ corrects slots.yaml");
    }
    if !founding.address {
        return Err(
            "the slot that founds the cluster has no address: HQ writes address and cidr into slots.yaml",
        );
    }
    if !founding.registered_for_it {
        return Err("only a machine whose registration names the slot founds the cluster: HQ corrects it");
    }
    if !founding.vouched {
        return Err("a machine that was admitted by voice founds no cluster: HQ registers it");
    }
    if !founding.same_tpm {
        return Err(
            "the cluster is founded on the machine whose TPM holds this provisioner's key, and this is another one",
        );
    }
    match founding.founder {
        Founder::Nobody if founding.forgetful && !founding.alone => Err(
            "this provisioner has lost what it knew, and the site may have its cluster: this machine joins through another \
             provisioner; where the cluster is gone, give it an empty disk, and begin anew",
        ),
        Founder::Nobody | Founder::It => Ok(true),
        Founder::Another => Err(
            "another installation of this machine has begun to found the cluster: HQ certifies a new provisioner for it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Founding = Founding {
        attached: false,
        named: true,
        control_plane: true,
        address: true,
        registered_for_it: true,
        vouched: true,
        same_tpm: true,
        founder: Founder::Nobody,
        forgetful: false,
        alone: false,
    };

    #[test]
    fn a_cluster_is_founded_by_headquarters_word_alone_and_only_once() {
        assert_eq!(founds(&FIRST), Ok(true));
        assert_eq!(
            founds(&Founding { founder: Founder::It, ..FIRST }),
            Ok(true),
            "after a power cut it goes on"
        );
        assert_eq!(founds(&Founding { named: false, ..FIRST }), Ok(false), "silence is no word");
        assert_eq!(founds(&Founding { attached: true, ..FIRST }), Ok(false), "there is a cluster");
        assert!(founds(&Founding { founder: Founder::Another, ..FIRST }).is_err());
    }

    #[test]
    fn a_provisioner_that_has_lost_its_memory_founds_no_second_cluster() {
        let forgetful = Founding { forgetful: true, ..FIRST };
        assert!(founds(&forgetful).unwrap_err().contains("may have its cluster"));
        assert_eq!(
            founds(&Founding { alone: true, ..forgetful }),
            Ok(true),
            "the first one was on the disk that is lost"
        );
        assert_eq!(
            founds(&Founding { founder: Founder::It, ..forgetful }),
            Ok(true),
            "it had begun, and goes on"
        );
    }

    #[test]
    fn what_headquarters_says_and_what_is_there_must_fit() {
        for founding in [
            Founding { control_plane: false, ..FIRST },
            Founding { address: false, ..FIRST },
            Founding { registered_for_it: false, ..FIRST },
            Founding { vouched: false, ..FIRST },
            Founding { same_tpm: false, ..FIRST },
        ] {
            assert!(founds(&founding).is_err(), "{founding:?}");
        }
    }
}
