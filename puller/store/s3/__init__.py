"""The store that speaks S3, through botocore."""
