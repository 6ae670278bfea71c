package metadata

// ChecksumAlgorithm numbers S3's additional checksums. The values are stored.
type ChecksumAlgorithm uint8

// The algorithms that S3 defines for additional checksums.
const (
	ChecksumNone      ChecksumAlgorithm = 0
	ChecksumCRC32     ChecksumAlgorithm = 1
	ChecksumCRC32C    ChecksumAlgorithm = 2
	ChecksumCRC64NVME ChecksumAlgorithm = 3
	ChecksumSHA1      ChecksumAlgorithm = 4
	ChecksumSHA256    ChecksumAlgorithm = 5
)

// Checksum is a checksum that clients see. The zero value is none.
type Checksum struct {
	Algorithm ChecksumAlgorithm
	Composite bool   // checksum of the parts' checksums, not of the bytes
	Parts     uint32 // for composite checksums: the number behind the dash
	Value     string // raw bytes, big endian; empty while it is not known
}
