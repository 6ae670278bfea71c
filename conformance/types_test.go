package conformance

import "encoding/xml"

// The answers of the API as AWS documents them, with every element that the
// tests look at.

type owner struct{ ID, DisplayName string }

type entry struct {
	Key               string
	LastModified      string
	ETag              string
	Size              int64
	StorageClass      string
	Owner             *owner
	ChecksumAlgorithm []string
	ChecksumType      string
}

type prefixes []struct{ Prefix string }

// listing is ListBucketResult of both versions.
type listing struct {
	XMLName               xml.Name
	Name                  string
	Prefix                *string
	Delimiter             *string
	Marker                *string
	NextMarker            *string
	StartAfter            *string
	ContinuationToken     *string
	NextContinuationToken *string
	KeyCount              *int
	MaxKeys               *int
	EncodingType          *string
	IsTruncated           *bool
	Contents              []entry
	CommonPrefixes        prefixes
}

// keys returns the keys of a listing.
func (l *listing) keys() []string {
	keys := []string{}
	for _, o := range l.Contents {
		keys = append(keys, o.Key)
	}
	return keys
}

// names returns the common prefixes.
func (p prefixes) names() []string {
	names := []string{}
	for _, q := range p {
		names = append(names, q.Prefix)
	}
	return names
}

type version struct {
	entry
	VersionID string `xml:"VersionId"`
	IsLatest  bool
}

// versionListing is ListVersionsResult.
type versionListing struct {
	Name                string
	Prefix              *string
	Delimiter           *string
	KeyMarker           *string
	VersionIDMarker     *string `xml:"VersionIdMarker"`
	NextKeyMarker       *string
	NextVersionIDMarker *string `xml:"NextVersionIdMarker"`
	MaxKeys             *int
	EncodingType        *string
	IsTruncated         *bool
	Version             []version
	DeleteMarker        []version
	CommonPrefixes      prefixes
}

// bucketListing is ListAllMyBucketsResult.
type bucketListing struct {
	Owner   *owner
	Buckets struct {
		Bucket []struct{ Name, CreationDate, BucketRegion string }
	}
	ContinuationToken string
	Prefix            *string
}

// created is InitiateMultipartUploadResult.
type created struct {
	Bucket, Key string
	UploadID    string `xml:"UploadId"`
}

// completed is CompleteMultipartUploadResult.
type completed struct {
	Location, Bucket, Key, ETag string
	ChecksumCRC32               string
	ChecksumCRC32C              string
	ChecksumCRC64NVME           string
	ChecksumSHA1                string
	ChecksumSHA256              string
	ChecksumType                string
}

// uploadListing is ListMultipartUploadsResult.
type uploadListing struct {
	Bucket             string
	KeyMarker          *string
	UploadIDMarker     *string `xml:"UploadIdMarker"`
	NextKeyMarker      *string
	NextUploadIDMarker *string `xml:"NextUploadIdMarker"`
	Prefix             *string
	Delimiter          *string
	EncodingType       *string
	MaxUploads         *int
	IsTruncated        *bool
	Upload             []struct {
		Key          string
		UploadID     string `xml:"UploadId"`
		Initiator    *owner
		Owner        *owner
		StorageClass string
		Initiated    string
	}
	CommonPrefixes prefixes
}

type part struct {
	PartNumber        int
	LastModified      string
	ETag              string
	Size              int64
	ChecksumCRC32     string
	ChecksumCRC32C    string
	ChecksumCRC64NVME string
	ChecksumSHA1      string
	ChecksumSHA256    string
}

// partListing is ListPartsResult.
type partListing struct {
	Bucket, Key          string
	UploadID             string `xml:"UploadId"`
	Initiator, Owner     *owner
	StorageClass         string
	PartNumberMarker     *int
	NextPartNumberMarker *int
	MaxParts             *int
	IsTruncated          *bool
	Part                 []part
}

// copied is CopyObjectResult and CopyPartResult.
type copied struct {
	XMLName           xml.Name
	ETag              string
	LastModified      string
	ChecksumCRC32     string
	ChecksumCRC32C    string
	ChecksumCRC64NVME string
	ChecksumSHA1      string
	ChecksumSHA256    string
	ChecksumType      string
}

// deleted is DeleteResult.
type deleted struct {
	Deleted []struct {
		Key       string
		VersionID string `xml:"VersionId"`
	}
	Error []struct {
		Key, Code, Message string
		VersionID          string `xml:"VersionId"`
	}
}

// attributes is GetObjectAttributesResponse.
type attributes struct {
	ETag     *string
	Checksum *struct {
		ChecksumCRC32, ChecksumCRC32C, ChecksumCRC64NVME, ChecksumSHA1, ChecksumSHA256, ChecksumType string
	}
	ObjectParts *struct {
		PartsCount           int
		PartNumberMarker     *int
		NextPartNumberMarker *int
		MaxParts             *int
		IsTruncated          *bool
		Part                 []part
	}
	StorageClass *string
	ObjectSize   *int64
}

// accessControl is AccessControlPolicy.
type accessControl struct {
	Owner owner
	Grant []struct {
		Grantee struct {
			Type string `xml:"http://www.w3.org/2001/XMLSchema-instance type,attr"`
			ID   string
		}
		Permission string
	} `xml:"AccessControlList>Grant"`
}
