package clients

import (
	"net/url"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// library is minio-go for the target, for what a program cannot do itself.
func library(t *testing.T, p *program) *minio.Client {
	t.Helper()
	u, err := url.Parse(p.target.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	transport, err := p.target.Transport()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.CloseIdleConnections)
	client, err := minio.New(u.Host, &minio.Options{
		Creds: credentials.NewStaticV4(p.target.AccessKey, p.target.SecretKey, ""), Secure: p.target.Secure(), Transport: transport,
	})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// makeBucket makes the program's bucket.
func makeBucket(p *program) {
	p.t.Helper()
	if err := library(p.t, p).MakeBucket(p.t.Context(), p.bucket, minio.MakeBucketOptions{Region: p.target.Region}); err != nil {
		p.t.Fatal(err)
	}
}

// removeBucket removes the program's bucket with everything in it.
func removeBucket(p *program) {
	p.t.Helper()
	client := library(p.t, p)
	for e := range client.RemoveObjects(p.t.Context(), p.bucket, client.ListObjects(p.t.Context(), p.bucket, minio.ListObjectsOptions{Recursive: true}), minio.RemoveObjectsOptions{}) {
		p.t.Errorf("remove %s: %v", e.ObjectName, e.Err)
	}
	if err := client.RemoveBucket(p.t.Context(), p.bucket); err != nil {
		p.t.Errorf("remove bucket: %v", err)
	}
}
