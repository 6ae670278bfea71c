package conformance

//lint:file-ignore SA1019 programs in the field use the manager, whatever its successor is called

import (
	"bytes"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/s3/manager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

func TestAWSSDKManager(t *testing.T) {
	t.Parallel()
	everyTarget(t, func(t *testing.T, c *conn) {
		b := c.newBucket()
		client := c.awsClient()
		ctx := t.Context()
		data := noise(11*mib+12345, 92)
		uploader := manager.NewUploader(client, func(u *manager.Uploader) { u.PartSize = 5 * mib; u.Concurrency = 3 })
		must[*manager.UploadOutput](t, "Upload")(uploader.Upload(ctx, &s3.PutObjectInput{Bucket: &b.name, Key: aws.String("big"), Body: bytes.NewReader(data)}))
		head := must[*s3.HeadObjectOutput](t, "HeadObject")(client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.name, Key: aws.String("big"), ChecksumMode: types.ChecksumModeEnabled}))
		if *head.ContentLength != int64(len(data)) || *head.ETag != multipartTag(data[:5*mib], data[5*mib:10*mib], data[10*mib:]) {
			t.Errorf("HEAD: %d bytes, ETag %s", *head.ContentLength, *head.ETag)
		}
		if head.ChecksumCRC32 == nil {
			t.Error("HEAD: no CRC32 of what the SDK uploaded")
		}
		got := manager.NewWriteAtBuffer(make([]byte, 0, len(data)))
		downloader := manager.NewDownloader(client, func(d *manager.Downloader) { d.PartSize = 3 * mib; d.Concurrency = 3 })
		must[int64](t, "Download")(downloader.Download(ctx, got, &s3.GetObjectInput{Bucket: &b.name, Key: aws.String("big")}))
		if !bytes.Equal(sha(got.Bytes()), sha(data)) {
			t.Error("the download differs from the upload")
		}
		if region := must[string](t, "GetBucketRegion")(manager.GetBucketRegion(ctx, c.awsClient(func(o *s3.Options) { o.Region = "us-east-1" }), b.name)); region != c.Region {
			t.Errorf("GetBucketRegion: %q, want %q", region, c.Region)
		}
	})
}
