//! Links and addresses over netlink, in the namespace where the socket was opened.
//!
//! **Invariant:** every operation may be repeated: what is already so is left alone.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use futures::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth};
use tokio::task::JoinHandle;

use crate::NetworkError;
use crate::error::{Act, errno};
use crate::routes::SERVICE_PROTOCOL;

/// Name of a replica's link in its own namespace.
pub(crate) const REPLICA_LINK: &str = "eth0";

/// A netlink socket.
pub(crate) struct Links {
    pub(crate) handle: Handle,
    /// Marks the routes made through it.
    pub(crate) protocol: RouteProtocol,
    task: JoinHandle<()>,
}

/// A link as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mtu: u32,
    up: bool,
}

impl Link {
    pub(crate) const fn is_up(&self) -> bool {
        self.up
    }
}

/// A new veth pair: the node's end, and `eth0` in a replica's namespace.
pub(crate) struct Veth<'a> {
    /// Name of the end on the node.
    pub(crate) name: &'a str,
    /// Namespace of the other end.
    pub(crate) namespace: &'a std::fs::File,
    /// Address of the node's end.
    pub(crate) gateway: Ipv4Addr,
    /// Address of the other end.
    pub(crate) address: Ipv4Addr,
    pub(crate) mtu: u32,
}

impl Links {
    /// Opens a socket in the namespace of the calling thread; its traffic is served by `runtime`.
    pub(crate) fn open(runtime: &tokio::runtime::Handle) -> Result<Self, NetworkError> {
        Self::with_protocol(runtime, SERVICE_PROTOCOL)
    }

    /// The same, whose routes carry another mark.
    pub(crate) fn with_protocol(
        runtime: &tokio::runtime::Handle,
        protocol: RouteProtocol,
    ) -> Result<Self, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|source| NetworkError::Socket { source })?;
        let task = runtime.spawn(connection);
        Ok(Self { handle, protocol, task })
    }

    /// The link of that name, if there is one.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<Link>, NetworkError> {
        let found = self.handle.link().get().match_name(name).execute().try_next().await;
        match found {
            Ok(message) => Ok(message.map(|message| Link::from(&message))),
            Err(error) if errno(&error) == Some(Errno::ENODEV) => Ok(None),
            Err(error) => Err(error).act(|| format!("looking for link {name}")),
        }
    }

    /// The link with that index.
    pub(crate) async fn by_index(&self, index: u32) -> Result<Option<Link>, NetworkError> {
        let request = self.handle.link().get().match_index(index);
        let found = request.execute().try_next().await;
        let found = found.act(|| format!("looking for link number {index}"))?;
        Ok(found.map(|message| Link::from(&message)))
    }

    /// Makes the gateway's link exist, up, with this one address. It is a bridge without ports, which every kernel has, and
    /// serves as an anchor only: for the address, and for the route of virtual addresses.
    pub(crate) async fn ensure_gateway(&self, name: &str, address: Ipv4Addr) -> Result<Link, NetworkError> {
        if self.find(name).await?.is_none() {
            let message = LinkBridge::new(name).address(mac_of(address).to_vec()).up().build();
            let added = self.handle.link().add(message).execute().await;
            added.act(|| format!("making link {name}"))?;
        }
        let missing = || NetworkError::LinkMissing { name: name.to_string() };
        let link = self.find(name).await?.ok_or_else(missing)?;
        self.set_up(&link).await?;
        self.ensure_address(&link, address, 32, AddressFlags::empty()).await?;
        Ok(link)
    }

    /// Makes a link have this IPv4 address and no other.
    pub(crate) async fn ensure_address(
        &self,
        link: &Link,
        address: Ipv4Addr,
        prefix: u8,
        flags: AddressFlags,
    ) -> Result<(), NetworkError> {
        let request = self.handle.address().get().set_link_index_filter(link.index);
        let present: Result<Vec<AddressMessage>, _> = request.execute().try_collect().await;
        let present = present.act(|| format!("reading the addresses of {}", link.name))?;
        let is_wanted = |message: &AddressMessage| {
            let wanted = AddressAttribute::Local(IpAddr::V4(address));
            message.header.prefix_len == prefix && message.attributes.contains(&wanted)
        };
        let mut found = false;
        for message in present {
            if is_wanted(&message) {
                found = true;
            } else if matches!(local_address(&message), Some(IpAddr::V4(_))) {
                let deleted = self.handle.address().del(message).execute().await;
                deleted.act(|| format!("removing an old address of {}", link.name))?;
            }
        }
        if found {
            return Ok(());
        }
        let mut request = self
            .handle
            .address()
            .add(link.index, IpAddr::V4(address), prefix)
            .replace();
        if !flags.is_empty() {
            request.message_mut().attributes.push(AddressAttribute::Flags(flags));
        }
        request
            .execute()
            .await
            .act(|| format!("giving {} the address {address}/{prefix}", link.name))
    }

    /// Makes a pair whose other end is right inside the namespace, and down: it cannot go up before the pair is whole.
    pub(crate) async fn add_veth(&self, veth: &Veth<'_>) -> Result<(), NetworkError> {
        let peer = LinkUnspec::new_with_name(REPLICA_LINK)
            .address(mac_of(veth.address).to_vec())
            .mtu(veth.mtu)
            .setns_by_fd(veth.namespace.as_raw_fd())
            .build();
        let message = LinkVeth::new(veth.name, REPLICA_LINK)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .address(mac_of(veth.gateway).to_vec())
            .mtu(veth.mtu)
            .up()
            .build();
        let added = self.handle.link().add(message).execute().await;
        added.act(|| format!("making link {}", veth.name))
    }

    /// Makes a link know the hardware address of its one neighbour, so that no packet waits for the question.
    pub(crate) async fn set_neighbour(&self, link: &Link, address: Ipv4Addr) -> Result<(), NetworkError> {
        let entry = self.handle.neighbours().add(link.index, IpAddr::V4(address)).replace();
        let entered = entry.link_layer_address(&mac_of(address)).execute().await;
        entered.act(|| format!("entering the hardware address of {address} on {}", link.name))
    }

    /// Takes a link up.
    pub(crate) async fn set_up(&self, link: &Link) -> Result<(), NetworkError> {
        if link.up {
            return Ok(());
        }
        let message = LinkUnspec::new_with_index(link.index).up().build();
        let changed = self.handle.link().change(message).execute().await;
        changed.act(|| format!("taking {} up", link.name))
    }

    /// Deletes a link, if it is there.
    pub(crate) async fn delete(&self, name: &str) -> Result<(), NetworkError> {
        let Some(link) = self.find(name).await? else {
            return Ok(());
        };
        match self.handle.link().del(link.index).execute().await {
            Err(error) if errno(&error) != Some(Errno::ENODEV) => Err(error).act(|| format!("deleting link {name}")),
            _ => Ok(()),
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                _ => {}
            }
        }
        link
    }
}

fn local_address(message: &AddressMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    })
}

/// A hardware address that follows from the IPv4 address, so that both ends of a pair know each other's without asking.
pub(crate) fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    // 02: locally administered, unicast.
    [0x02, 0x42, a, b, c, d]
}
