"""AWS Bedrock, converse and invoke, whole and streamed, as boto3 sees it. Every request is signed."""
import json

import boto3

client = boto3.client("bedrock-runtime", region_name="us-east-1",
                      aws_access_key_id="AKIDSTANDIN", aws_secret_access_key="stand-in-secret")
haiku = "anthropic.claude-haiku-4-5-20251001-v1:0"
talk = [{"role": "user", "content": [{"text": "Say something. [[output=5 cached=7]]"}]}]
answer = client.converse(modelId=haiku, messages=talk, inferenceConfig={"maxTokens": 100})
print("converse:", answer["output"]["message"]["content"][0]["text"], answer["usage"]["outputTokens"])
cached = talk + [{"role": "assistant", "content": [{"text": "x"}, {"cachePoint": {"type": "default"}}]}, talk[0]]
stream = client.converse_stream(modelId="amazon.nova-pro-v1:0", messages=cached, inferenceConfig={"maxTokens": 101})
events = list(stream["stream"])
text = "".join(event["contentBlockDelta"]["delta"]["text"] for event in events if "contentBlockDelta" in event)
print("converse stream:", text, events[-1]["metadata"]["usage"]["outputTokens"])
body = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 102,
        "messages": [{"role": "user", "content": "Say something. [[output=5]]"}]}
answer = client.invoke_model(modelId=haiku, body=json.dumps(body))
print("invoke:", json.loads(answer["body"].read())["content"][0]["text"])
body["max_tokens"] = 103
answer = client.invoke_model_with_response_stream(modelId=haiku, body=json.dumps(body))
chunks = [json.loads(event["chunk"]["bytes"]) for event in answer["body"]]
print("invoke stream:", "".join(chunk["delta"].get("text", "") for chunk in chunks if chunk["type"] == "content_block_delta"))
