"""The store that speaks S3, through boto3."""
