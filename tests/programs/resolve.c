/* Looks its arguments up with the C library that it is linked to, and prints the IPv4 addresses. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int count, char **names) {
    for (int n = 1; n < count; n++) {
        struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *all, *one;
        int failed = getaddrinfo(names[n], "443", &hints, &all);
        if (failed) {
            printf("%s: %s\n", names[n], gai_strerror(failed));
            continue;
        }
        for (one = all; one; one = one->ai_next) {
            char text[64] = "?";
            if (one->ai_family == AF_INET) {
                inet_ntop(AF_INET, &((struct sockaddr_in *)one->ai_addr)->sin_addr, text, sizeof text);
                printf("%s %s\n", names[n], text);
            }
        }
        freeaddrinfo(all);
    }
    return 0;
}
