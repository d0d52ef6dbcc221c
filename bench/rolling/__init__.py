"""What does a deploy cost those who are using the service?"""
