//! The validator against real servers, good and bad, on loopback.

#[cfg(test)]
mod hostile_servers;
#[cfg(test)]
mod proxies;
#[cfg(test)]
mod ssh;
#[cfg(test)]
mod sshd;
#[cfg(test)]
mod support;
