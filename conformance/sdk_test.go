package conformance

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"github.com/minio/minio-go/v7"
	miniocredentials "github.com/minio/minio-go/v7/pkg/credentials"
)

// awsClient is the AWS SDK for Go with its defaults, but for path style.
func (c *conn) awsClient(change ...func(*s3.Options)) *s3.Client {
	options := s3.Options{
		Region:       c.Region,
		BaseEndpoint: aws.String(c.Endpoint),
		Credentials:  credentials.NewStaticCredentialsProvider(c.AccessKey, c.SecretKey, ""),
		HTTPClient:   c.http,
		UsePathStyle: true,
	}
	return s3.New(options, change...)
}

// minioClient is minio-go with its defaults, but for checksums in trailers.
func (c *conn) minioClient() *minio.Client {
	c.t.Helper()
	u, err := url.Parse(c.Endpoint)
	if err != nil {
		c.t.Fatal(err)
	}
	client, err := minio.New(u.Host, &minio.Options{
		Creds: miniocredentials.NewStaticV4(c.AccessKey, c.SecretKey, ""), Secure: c.Secure(), Transport: c.http.Transport, MaxRetries: 1, TrailingHeaders: true,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return client
}

// must ends the test on an error.
func must[T any](t testing.TB, what string) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return v
	}
}

// hashOf reads r to its end and returns the SHA-256 of it.
func hashOf(t testing.TB, r io.Reader) []byte {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Fatal(err)
	}
	return h.Sum(nil)
}

func sha(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}

// apiCode is the error code of an AWS SDK error.
func apiCode(err error) string {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return e.ErrorCode()
	}
	return fmt.Sprint(err)
}

func TestAWSSDKObjects(t *testing.T) {
	t.Parallel()
	everyTarget(t, func(t *testing.T, c *conn) {
		b := c.newBucket()
		client := c.awsClient()
		ctx := t.Context()
		for _, size := range []int{0, 1, 20000, 2 * mib} {
			data := noise(size, 90)
			for _, algorithm := range append(types.ChecksumAlgorithm("").Values(), "") {
				if !slices.ContainsFunc(checksums(), func(c checksum) bool { return c.name == string(algorithm) }) && algorithm != "" {
					continue // one that the server need not know
				}
				if size > 20000 && algorithm != "" {
					continue
				}
				key := aws.String(fmt.Sprintf("key %d+%s", size, algorithm))
				put := must[*s3.PutObjectOutput](t, "PutObject")(client.PutObject(ctx, &s3.PutObjectInput{
					Bucket: &b.name, Key: key, Body: bytes.NewReader(data), ChecksumAlgorithm: algorithm, Metadata: map[string]string{"color": "blue"},
				}))
				get := must[*s3.GetObjectOutput](t, "GetObject")(client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.name, Key: key, ChecksumMode: types.ChecksumModeEnabled}))
				if !bytes.Equal(hashOf(t, get.Body), sha(data)) || get.Metadata["color"] != "blue" || *get.ETag != *put.ETag {
					t.Errorf("%s: came back different", *key)
				}
				get.Body.Close()
			}
		}
		_, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.name, Key: aws.String("missing")})
		if _, ok := errors.AsType[*types.NoSuchKey](err); !ok {
			t.Errorf("missing key: %v, want NoSuchKey", err)
		}
		_, err = client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.name, Key: aws.String("missing")})
		if _, ok := errors.AsType[*types.NotFound](err); !ok {
			t.Errorf("HEAD of a missing key: %v, want NotFound", err)
		}
		_, err = client.PutObject(ctx, &s3.PutObjectInput{Bucket: &b.name, Key: aws.String("key 1+"), Body: bytes.NewReader(nil), IfNoneMatch: aws.String("*")})
		if apiCode(err) != "PreconditionFailed" {
			t.Errorf("If-None-Match: %v", err)
		}
		awsPages(t, b, client)
	})
}

// awsPages lists and deletes everything by the SDK's paginators.
func awsPages(t *testing.T, b *bucket, client *s3.Client) {
	ctx := t.Context()
	pages := s3.NewListObjectsV2Paginator(client, &s3.ListObjectsV2Input{Bucket: &b.name, MaxKeys: aws.Int32(5)})
	var ids []types.ObjectIdentifier
	for pages.HasMorePages() {
		page := must[*s3.ListObjectsV2Output](t, "ListObjectsV2")(pages.NextPage(ctx))
		for _, o := range page.Contents {
			ids = append(ids, types.ObjectIdentifier{Key: o.Key})
		}
	}
	if want := len(b.list().Contents); len(ids) != want || want == 0 {
		t.Errorf("paginator found %d keys, want %d", len(ids), want)
	}
	out := must[*s3.DeleteObjectsOutput](t, "DeleteObjects")(client.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: &b.name, Delete: &types.Delete{Objects: ids}}))
	if len(out.Deleted) != len(ids) || len(out.Errors) > 0 {
		t.Errorf("DeleteObjects: %d deleted, %d errors", len(out.Deleted), len(out.Errors))
	}
}

// As the checksum is not known before the body is read, an unseekable body
// goes as a trailer over TLS.
func TestAWSSDKStream(t *testing.T) {
	t.Parallel()
	everyTarget(t, func(t *testing.T, c *conn) {
		if !c.Secure() {
			t.Skip("the SDK wants TLS for an unsigned stream")
		}
		b := c.newBucket()
		data := noise(300*kib, 91)
		_, err := c.awsClient().PutObject(t.Context(), &s3.PutObjectInput{
			Bucket: &b.name, Key: aws.String("stream"), Body: io.MultiReader(bytes.NewReader(data)), ContentLength: aws.Int64(int64(len(data))),
		})
		if err != nil {
			t.Fatal(err)
		}
		b.get("stream").want(http.StatusOK).wantBody(data)
	})
}

func TestAWSSDKPresign(t *testing.T) {
	t.Parallel()
	everyTarget(t, func(t *testing.T, c *conn) {
		b := c.newBucket()
		presign := s3.NewPresignClient(c.awsClient())
		data := noise(kib, 93)
		send := func(method, address string, header http.Header, body []byte) *http.Response {
			t.Helper()
			req := must[*http.Request](t, "request")(http.NewRequestWithContext(t.Context(), method, address, bytes.NewReader(body)))
			for name, values := range header {
				if name != "Host" {
					req.Header[name] = values
				}
			}
			r := must[*http.Response](t, method)(c.http.Do(req))
			t.Cleanup(func() { r.Body.Close() })
			return r
		}
		put, err := presign.PresignPutObject(t.Context(), &s3.PutObjectInput{Bucket: &b.name, Key: aws.String("a b+c"), ContentType: aws.String("text/x-signed")})
		if err != nil {
			t.Fatal(err)
		}
		if r := send(put.Method, put.URL, put.SignedHeader, data); r.StatusCode != http.StatusOK {
			t.Fatalf("presigned PUT: %s: %s", r.Status, must[[]byte](t, "body")(io.ReadAll(r.Body)))
		}
		get, err := presign.PresignGetObject(t.Context(), &s3.GetObjectInput{Bucket: &b.name, Key: aws.String("a b+c"), ResponseCacheControl: aws.String("no-store")}, s3.WithPresignExpires(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		r := send(get.Method, get.URL, nil, nil)
		if !bytes.Equal(hashOf(t, r.Body), sha(data)) || r.Header.Get("Cache-Control") != "no-store" || r.Header.Get("Content-Type") != "text/x-signed" {
			t.Errorf("presigned GET: %s %v", r.Status, r.Header)
		}
	})
}

func TestMinioClient(t *testing.T) {
	t.Parallel()
	everyTarget(t, func(t *testing.T, c *conn) {
		client := c.minioClient()
		ctx := t.Context()
		b := &bucket{conn: c, name: randomName()}
		if err := client.MakeBucket(ctx, b.name, minio.MakeBucketOptions{Region: c.Region}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.remove)
		if !must[bool](t, "BucketExists")(client.BucketExists(ctx, b.name)) || must[bool](t, "BucketExists")(client.BucketExists(ctx, randomName())) {
			t.Error("BucketExists is wrong")
		}
		if location := must[string](t, "GetBucketLocation")(client.GetBucketLocation(ctx, b.name)); location != c.Region {
			t.Errorf("location %q", location)
		}
		small, big := noise(30000, 94), noise(11*mib+1, 95)
		minioPuts(t, b, client, small, big)
		minioReads(t, b, client, small, big)
		minioCopies(t, b, client, big)
		minioRemoves(t, b, client)
	})
}

// minioPuts uploads in the ways that the library has.
func minioPuts(t *testing.T, b *bucket, client *minio.Client, small, big []byte) {
	ctx := t.Context()
	for name, options := range map[string]minio.PutObjectOptions{
		"default": {ContentType: "text/x-test", UserMetadata: map[string]string{"Color": "blue"}},
		"md5":     {SendContentMd5: true},
		"no-sha":  {DisableContentSha256: true},
		"crc32c":  {Checksum: minio.ChecksumCRC32C},
		"sha256":  {Checksum: minio.ChecksumSHA256},
		"crc64":   {Checksum: minio.ChecksumCRC64NVME},
	} {
		info := must[minio.UploadInfo](t, "PutObject "+name)(client.PutObject(ctx, b.name, "small/"+name, bytes.NewReader(small), int64(len(small)), options))
		if info.Size != int64(len(small)) || info.ETag == "" {
			t.Errorf("%s: %+v", name, info)
		}
		options.PartSize = 5 * mib
		if name == "default" || name == "md5" || name == "crc64" {
			must[minio.UploadInfo](t, "multipart "+name)(client.PutObject(ctx, b.name, "big/"+name, bytes.NewReader(big), int64(len(big)), options))
		}
	}
	// Of unknown length: streamed in parts.
	must[minio.UploadInfo](t, "stream")(client.PutObject(ctx, b.name, "big/stream", io.MultiReader(bytes.NewReader(big)), -1, minio.PutObjectOptions{PartSize: 5 * mib}))
	must[minio.UploadInfo](t, "small stream")(client.PutObject(ctx, b.name, "small/stream", io.MultiReader(bytes.NewReader(small)), -1, minio.PutObjectOptions{PartSize: 5 * mib}))
}

// minioReads reads back whatever is there.
func minioReads(t *testing.T, b *bucket, client *minio.Client, small, big []byte) {
	ctx := t.Context()
	n := 0
	for o := range client.ListObjects(ctx, b.name, minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		n++
		want := small
		if o.Key[:3] == "big" {
			want = big
		}
		object := must[*minio.Object](t, "GetObject")(client.GetObject(ctx, b.name, o.Key, minio.GetObjectOptions{Checksum: true}))
		if got := hashOf(t, object); !bytes.Equal(got, sha(want)) {
			t.Errorf("%s: came back different", o.Key)
		}
		object.Close()
		if stat := must[minio.ObjectInfo](t, "StatObject")(client.StatObject(ctx, b.name, o.Key, minio.StatObjectOptions{Checksum: true})); stat.ETag != o.ETag || stat.Size != int64(len(want)) {
			t.Errorf("%s: stat %+v, list %+v", o.Key, stat, o)
		}
	}
	if n != 11 {
		t.Errorf("%d objects in the list, want 11", n)
	}
	for v1 := range client.ListObjects(ctx, b.name, minio.ListObjectsOptions{UseV1: true}) {
		if v1.Err != nil || v1.Key != "big/" && v1.Key != "small/" {
			t.Errorf("version 1: %q %v", v1.Key, v1.Err)
		}
	}
	options := minio.GetObjectOptions{}
	if err := options.SetRange(5*mib-3, 5*mib+2); err != nil {
		t.Fatal(err)
	}
	object := must[*minio.Object](t, "GetObject")(client.GetObject(ctx, b.name, "big/default", options))
	defer object.Close()
	if got := must[[]byte](t, "range")(io.ReadAll(object)); !bytes.Equal(got, big[5*mib-3:5*mib+3]) {
		t.Errorf("range: %d bytes", len(got))
	}
	_, err := client.StatObject(ctx, b.name, "missing", minio.StatObjectOptions{})
	if code := minio.ToErrorResponse(err).Code; code != minio.NoSuchKey {
		t.Errorf("stat of a missing key: %q (%v)", code, err)
	}
}

// minioCopies copies on the server's side, and composes from parts.
func minioCopies(t *testing.T, b *bucket, client *minio.Client, big []byte) {
	ctx := t.Context()
	must[minio.UploadInfo](t, "CopyObject")(client.CopyObject(ctx,
		minio.CopyDestOptions{Bucket: b.name, Object: "copy", ReplaceMetadata: true, UserMetadata: map[string]string{"Shape": "round"}},
		minio.CopySrcOptions{Bucket: b.name, Object: "big/default"}))
	must[minio.UploadInfo](t, "ComposeObject")(client.ComposeObject(ctx, minio.CopyDestOptions{Bucket: b.name, Object: "composed"},
		minio.CopySrcOptions{Bucket: b.name, Object: "big/default"}, minio.CopySrcOptions{Bucket: b.name, Object: "small/default"}))
	stat := must[minio.ObjectInfo](t, "StatObject")(client.StatObject(ctx, b.name, "copy", minio.StatObjectOptions{}))
	if stat.UserMetadata["Shape"] != "round" || stat.Size != int64(len(big)) {
		t.Errorf("copy: %+v", stat)
	}
	composed := must[*minio.Object](t, "GetObject")(client.GetObject(ctx, b.name, "composed", minio.GetObjectOptions{}))
	defer composed.Close()
	if got := hashOf(t, io.LimitReader(composed, int64(len(big)))); !bytes.Equal(got, sha(big)) {
		t.Error("composed: came back different")
	}
}

// minioRemoves presigns a last time and removes everything.
func minioRemoves(t *testing.T, b *bucket, client *minio.Client) {
	ctx := t.Context()
	address := must[*url.URL](t, "PresignedGetObject")(client.PresignedGetObject(ctx, b.name, "copy", time.Minute, url.Values{"response-content-type": {"text/x-signed"}}))
	req := must[*http.Request](t, "request")(http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil))
	r := must[*http.Response](t, "presigned GET")(b.http.Do(req))
	r.Body.Close()
	if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != "text/x-signed" {
		t.Errorf("presigned GET: %s %v", r.Status, r.Header)
	}
	objects := make(chan minio.ObjectInfo)
	go func() {
		defer close(objects)
		for o := range client.ListObjects(ctx, b.name, minio.ListObjectsOptions{Recursive: true}) {
			objects <- o
		}
	}()
	for e := range client.RemoveObjects(ctx, b.name, objects, minio.RemoveObjectsOptions{}) {
		t.Errorf("remove %s: %v", e.ObjectName, e.Err)
	}
	if l := b.list(); len(l.Contents) > 0 {
		t.Errorf("left: %v", l.keys())
	}
}
