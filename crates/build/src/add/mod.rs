//! What `ADD` does beyond `COPY`: archives are unpacked, addresses downloaded, repositories checked out.

pub(crate) mod archive;
pub(crate) mod download;
pub(crate) mod git;
