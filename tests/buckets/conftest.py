"""Two real object stores, started once, each test with its own cache."""

from support.bucket_fixtures import cache, gcs, gcs_proxied, gcs_proxy, proxy, s3, s3_proxy, store

__all__ = ["cache", "gcs", "gcs_proxied", "gcs_proxy", "proxy", "s3", "s3_proxy", "store"]
