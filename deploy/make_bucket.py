"""Make the bucket of REGISTRY_BUCKET, if it is not there."""

import os

import boto3

bucket = os.environ["REGISTRY_BUCKET"].removeprefix("s3://").partition("/")[0]
client = boto3.client(
    "s3",
    endpoint_url=os.environ["REGISTRY_BUCKET_ENDPOINT"],
    region_name=os.environ.get("REGISTRY_BUCKET_REGION", "us-east-1"),
    aws_access_key_id=os.environ["REGISTRY_BUCKET_KEY_ID"],
    aws_secret_access_key=os.environ["REGISTRY_BUCKET_SECRET"],
)
if bucket not in (found["Name"] for found in client.list_buckets()["Buckets"]):
    client.create_bucket(Bucket=bucket)
