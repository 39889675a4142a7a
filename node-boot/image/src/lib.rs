//! The recipe of the operating system: pinned inputs in, images out, the same bits every time.

mod archive; // what the kernel starts from
pub mod authenticode; // by which firmware knows a program
mod bill; // what the images are made from
mod debian; // packages of the distribution, by digest
mod disk; // partitions, and what the firmware reads
mod drivers; // which modules of the kernel
mod erofs; // the system as a file system that nobody writes to
mod kubernetes; // what is in the image of Kubernetes
mod origin; // what a program was made from
mod recipe; // what is in the images
mod stick; // what a machine starts from
mod tree; // folders, files and links, before they are bytes
pub mod uki; // one file that the firmware starts
mod verity; // the hash tree behind an image

pub use debian::{Pin, listed as pins_of, pins, unpack_listed as unpack};
pub use disk::check_place;
pub use recipe::{Built, Inputs, SIGNED, build};
pub use stick::stick;
