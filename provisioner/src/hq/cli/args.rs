//! What may be typed: the commands of headquarters and their arguments.

use std::path::PathBuf;

/// What headquarters does.
#[derive(clap::Args)]
pub struct Args {
    /// Headquarters' folder, under Git.
    #[arg(long, default_value = ".")]
    pub(super) dir: PathBuf,
    /// Private keys; without this `node-boot-keys` in that folder, which Git is told to leave out.
    #[arg(long, env = "NODEBOOT_KEYS")]
    pub(super) keys: Option<PathBuf>,
    /// A file that holds the passphrase of the keys; without this it is the variable `NODEBOOT_PASSPHRASE`.
    #[arg(long)]
    pub(super) passphrase_file: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Make the owner: anchors, signer, approve key. Once, and offline.
    Init {
        /// The owner's name, as machines show it and certificates bear it: 1 to 40 symbols.
        #[arg(long)]
        name: String,
        /// Let machines be admitted by voice alone: for sites that never have a link.
        #[arg(long)]
        allow_phone: bool,
    },
    /// Make the keys by which machines' firmware knows the owner's programs (Secure Boot). Once, and offline.
    SecureBoot,
    /// Sites and their provisioners.
    #[command(subcommand)]
    Site(SiteCommand),
    /// Registrations.
    #[command(subcommand)]
    Machines(MachinesCommand),
    /// Say yes to the code on a machine's screen.
    Approve {
        /// The site that telephones, as `site add` named it.
        site: String,
        /// The slot that the machine gets, one of the site's `slots.yaml`.
        slot: String,
        /// The code that was read to you, as in WT0T-BSPH-K.
        code: String,
        /// Where to write the approval, to be sent to the site.
        #[arg(short, long, default_value = "approval.jws")]
        output: PathBuf,
    },
    /// What a site is sent.
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Take in what a site has to say.
    Ingest {
        /// The file that `provisioner report` wrote on site.
        report: PathBuf,
    },
    /// Vouchers of anybody.
    #[command(subcommand)]
    Voucher(VoucherCommand),
    /// The operating system of machines.
    #[command(subcommand)]
    Image(ImageCommand),
}

#[derive(clap::Subcommand)]
pub(super) enum SiteCommand {
    /// Make a site: its CA, and `sites/<site>/` with files to fill in.
    Add {
        /// Its name: small letters, digits and hyphens, as in ship-7.
        site: String,
    },
    /// Certify a provisioner of a site.
    Certify {
        /// The site that it is for, as `site add` named it.
        site: String,
        /// The `ca-request.json` that `provisioner init` or `node-boot register --csr` made.
        request: PathBuf,
        /// The code that a person reads to you, where there is no TPM.
        #[arg(long)]
        code: Option<String>,
        /// Where to write the reply, to be carried back for `provisioner init --reply`.
        #[arg(short, long, default_value = "reply.json")]
        output: PathBuf,
    },
    /// Write the stick of a site: its machines start from it, install themselves and join.
    Kit {
        /// The site whose stick it is, as `site add` named it.
        site: String,
        /// A folder with images, as `image build` makes it and `image add` let it in.
        #[arg(long)]
        images: PathBuf,
        /// Where to write it: a file, to be copied onto a stick as a whole.
        #[arg(short, long)]
        output: PathBuf,
        /// For the depot: machines that start from it get the owner's keys into their firmware and their row into the
        /// stick's `nodeboot/machines.csv`, and switch themselves off.
        #[arg(long)]
        depot: bool,
        /// With --depot: what is on the stick goes on the machine's empty disk as well.
        #[arg(long, requires = "depot")]
        flash: bool,
    },
    /// Withdraw the CA of a site, and with it every provisioner that it certified.
    Revoke {
        /// The site whose CA is withdrawn, as `site add` named it.
        site: String,
    },
}

#[derive(clap::Subcommand)]
pub(super) enum MachinesCommand {
    /// Register every machine of a table, or none.
    Import {
        /// The table in CSV, its first row the columns: `node-boot register --csv` prints a machine's row.
        file: PathBuf,
    },
    /// List registrations.
    List {
        /// Only those of this site.
        #[arg(long)]
        site: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// End a registration: for ever, unless one of --lost and --rma says that it may come back.
    Revoke {
        /// Its id (`mc_…`) or serial, as `machines list` shows them.
        machine: String,
        /// It is missing.
        #[arg(long, conflicts_with = "rma")]
        lost: bool,
        /// It went back to its maker.
        #[arg(long)]
        rma: bool,
        /// It is to erase its disk when it speaks at its site, Pods' volumes too.
        #[arg(long)]
        wipe: bool,
    },
}

#[derive(clap::Subcommand)]
pub(super) enum BundleCommand {
    /// Build the next bundle of a site.
    Build {
        /// The site that it is for, as `site add` named it.
        site: String,
        /// Where to write it; without this SITE.nbb in the current folder.
        #[arg(short, long)]
        output: Option<PathBuf>,
    },
}

#[derive(clap::Subcommand)]
pub(super) enum ImageCommand {
    /// Build the images, the same for every site and owner, from pinned inputs.
    #[command(disable_version_flag = true)]
    Build {
        /// Version of the operating system.
        #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
        version: String,
        /// `node-boot` as one static file.
        #[arg(long)]
        node_boot: PathBuf,
        /// `provisioner` as one static file.
        #[arg(long)]
        provisioner: PathBuf,
        /// A folder with containerd, runc, the CNI programs, kubelet and kubeadm; below it `images` with Pod images.
        #[arg(long)]
        programs: PathBuf,
        /// Where downloaded packages are kept.
        #[arg(long, default_value = "/var/cache/node-boot")]
        cache: PathBuf,
        /// The folder to build them in.
        #[arg(short, long)]
        output: PathBuf,
    },
    /// Let sites run the images of a folder: from now on `system` in a site's `site.yaml` may name their versions.
    Add {
        /// A folder with images, as `image build` makes it.
        folder: PathBuf,
    },
}

#[derive(clap::Subcommand)]
pub(super) enum VoucherCommand {
    /// Show what a voucher says, and the certificates of who signed it.
    Show {
        /// The voucher or voucher request, a JWS.
        file: PathBuf,
    },
    /// Show it, and fail unless every signature is good.
    Verify {
        /// The voucher or voucher request, a JWS.
        file: PathBuf,
    },
}
