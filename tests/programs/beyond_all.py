"""A stream of each format whose provider sends more than its cap, as the official SDKs see it."""
import json

import anthropic
import boto3
import openai
from google import genai
from google.genai import types

WORDS = "Say something. [[beyond=2500]]"
talk = [{"role": "user", "content": WORDS}]
one, two, google = openai.OpenAI(api_key="stand-in"), anthropic.Anthropic(api_key="stand-in"), genai.Client(api_key="stand-in")
aws = boto3.client("bedrock-runtime", region_name="us-east-1",
                   aws_access_key_id="AKIDSTANDIN", aws_secret_access_key="stand-in-secret")


def chat():
    return one.chat.completions.create(model="gpt-4o-mini", messages=talk, max_tokens=16, stream=True)


def responses():
    for event in one.responses.create(model="gpt-5-mini", input=WORDS, max_output_tokens=16, stream=True):
        if event.type == "response.failed":
            raise RuntimeError(event.response.error.message)
        yield event


def messages():
    with two.messages.stream(model="claude-haiku-4-5", messages=talk, max_tokens=16) as stream:
        yield from stream.text_stream


def gemini():
    options = types.GenerateContentConfig(max_output_tokens=16)
    return google.models.generate_content_stream(model="gemini-2.5-flash", contents=WORDS, config=options)


def converse():
    said = [{"role": "user", "content": [{"text": WORDS}]}]
    answer = aws.converse_stream(modelId="amazon.nova-pro-v1:0", messages=said, inferenceConfig={"maxTokens": 16})
    return answer["stream"]


def invoke():
    body = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 16, "messages": talk}
    model = "anthropic.claude-haiku-4-5-20251001-v1:0"
    return aws.invoke_model_with_response_stream(modelId=model, body=json.dumps(body))["body"]


for call in (chat, responses, messages, gemini, converse, invoke):
    parts = 0
    try:
        for _ in call():
            parts += 1
        print(f"{call.__name__}: ended without a word after {parts}")
    except Exception as error:
        print(f"{call.__name__}: {parts > 0} {type(error).__name__}: {' '.join(str(error).split())}")
