//! Where configurations come from: files of our own, Kubernetes manifests.
