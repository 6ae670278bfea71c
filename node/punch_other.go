//go:build !linux

package node

import "github.com/cockroachdb/pebble/v2/vfs"

func punchDescriptor(uintptr, int64, int64) error { return vfs.ErrUnsupported }

func trimDescriptor(uintptr, int64) error { return vfs.ErrUnsupported }
