"""Jobs on Huawei's ModelArts."""
