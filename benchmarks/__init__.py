"""Measurements that need more time or data than a test."""
