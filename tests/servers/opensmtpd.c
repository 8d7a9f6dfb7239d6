/*
 * Debian 12's smtpd was written for OpenSSL 1.1. It marks the key that it takes out of an EVP_PKEY as
 * one that another of its processes holds; OpenSSL 3 hands out a cached copy, so the mark is lost and
 * every TLS handshake fails ("missing private key"). Putting the copy back, as later releases of
 * OpenSMTPD do themselves, makes TLS work. Preloaded into the test's smtpd only.
 */
#define _GNU_SOURCE
#include <dlfcn.h>

extern int EVP_PKEY_set1_RSA(void *key, void *rsa);
extern int EVP_PKEY_set1_EC_KEY(void *key, void *ec);

void *EVP_PKEY_get1_RSA(void *key)
{
    void *(*get)(void *) = (void *(*)(void *)) dlsym(RTLD_NEXT, "EVP_PKEY_get1_RSA");
    void *rsa = get(key);

    if (rsa)
        EVP_PKEY_set1_RSA(key, rsa);
    return rsa;
}

void *EVP_PKEY_get1_EC_KEY(void *key)
{
    void *(*get)(void *) = (void *(*)(void *)) dlsym(RTLD_NEXT, "EVP_PKEY_get1_EC_KEY");
    void *ec = get(key);

    if (ec)
        EVP_PKEY_set1_EC_KEY(key, ec);
    return ec;
}
